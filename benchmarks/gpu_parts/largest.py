"""The largest model that fits the card: what a plan reckons for known shapes, beside a real step of two of them.

Those are the largest that a plan says fits and the smallest that it says does not, with random weights made on the
card, in bf16 by the project's engine: Adam's state and float32 weights are there, as in a trial. On a CPU the table is
that of a card of CPU_CARD bytes, and the step is one of the tiny model, by the peak of the process.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from plain_step import ALPHA, BETA, Shape, neo_config, new_rows
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gpu_parts.setting import Setting
from gpu_parts.step_memory import BATCH, free
from icu_ray import methods
from icu_ray.config import LossConfig
from icu_ray.methods.base import Batch
from icu_ray.methods.module import UnlearningModule
from icu_ray.methods.weights import batch_weights
from icu_ray.models.architecture import without_dropout
from icu_ray.models.loading import fuse_activations
from icu_ray.models.reference import build_reference
from icu_ray.plan.known_models import known_config
from icu_ray.plan.memory import USABLE, Memory, Use, memory_of
from icu_ray.plan.model_shapes import ModelShape, shape_of
from icu_ray.training.engine import Engine, distributed, set_device_environment
from icu_ray.training.engine_settings import EngineSettings

SOURCES = (
    "EleutherAI/gpt-neo-125m",
    "EleutherAI/gpt-neo-1.3B",
    "EleutherAI/gpt-neo-2.7B",
    "meta-llama/Llama-3.2-1B",
    "meta-llama/Llama-3.2-3B",
    "microsoft/Phi-3.5-mini-instruct",
    "EleutherAI/gpt-j-6b",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-2-13b-hf",
)
LENGTH, CPU_CARD = 200, 80_000_000_000
_SECOND_NEEDS = 25.0
"""Seconds that must be left for the second model."""


@dataclass(frozen=True)
class Candidate:
    """A model by name. need: what a plan reckons for it, on the use that is measured here."""

    name: str
    config: Mapping[str, Any]
    shape: ModelShape
    need: Memory


def candidates(use: Use) -> list[Candidate]:
    """SOURCES, the smallest need first."""
    found = []
    for name in SOURCES:
        config = known_config(name)
        shape = None if config is None else shape_of(config)
        assert config is not None and shape is not None, name
        found.append(Candidate(name, config, shape, memory_of(shape, use)))
    return sorted(found, key=lambda each: each.need.total)


def chosen(every: list[Candidate], card: float) -> tuple[Candidate | None, Candidate | None]:
    """The largest that a plan says fits into `card` bytes, and the smallest that it says does not."""
    fitting = [each for each in every if each.need.total <= USABLE * card]
    others = [each for each in every if each.need.total > USABLE * card]
    return fitting[-1] if fitting else None, others[0] if others else None


def measure(setting: Setting) -> None:
    """The part."""
    on_gpu = setting.device == "cuda"
    card = torch.cuda.get_device_properties(0).total_memory if on_gpu else CPU_CARD
    every = candidates(Use(precision="bf16", batch=BATCH, micro_batch=BATCH, length=LENGTH))
    plan = [
        {
            "model": each.name,
            "parameters": each.shape.parameters,
            "training": each.need.training,
            "measuring": each.need.measuring,
            "fits": each.need.total <= USABLE * card,
        }
        for each in every
    ]
    steps: list[dict[str, Any]] = []
    found: dict[str, Any] = {"card_bytes": card, "card_is_here": on_gpu, "plan": plan, "steps": steps}
    setting.save("largest", found)
    tried = [each for each in chosen(every, card) if each is not None] if on_gpu else [_tiny(setting)]
    set_device_environment(torch.device(setting.device))
    with distributed(0, 1, "nccl" if on_gpu else "gloo"):
        for number, each in enumerate(tried):
            row: dict[str, Any] = {
                "model": each.name,
                "plan": each.need.training,
                "fits": each.need.total <= USABLE * card,
            }
            if number and setting.left < _SECOND_NEEDS:
                row["error"] = "no time left"
            else:
                try:
                    row |= _step(setting, each)
                except RuntimeError as error:  # want of memory is one
                    row["error"] = str(error).splitlines()[0]
                free(setting)
            steps.append(row)
            setting.save("largest", found)


def _tiny(setting: Setting) -> Candidate:
    config = neo_config(setting.shape).to_dict()
    shape = shape_of(config)
    assert shape is not None
    use = Use(precision="bf16", batch=BATCH, micro_batch=BATCH, length=setting.shape.length, gpu=False)
    return Candidate(setting.shape.name, config, shape, memory_of(shape, use))


def _made(setting: Setting, each: Candidate) -> PreTrainedModel:
    """With random bf16 weights, made where they stay: no copy in main memory."""
    own = {key: value for key, value in each.config.items() if key != "model_type"}
    if each.shape.family == "gpt_neo":
        own["attention_types"] = [[["global", "local"], each.shape.layers // 2]]
    config = AutoConfig.for_model(each.shape.family, **own)
    without_dropout(config)
    torch.manual_seed(0)
    with torch.device(setting.device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    fuse_activations(model)
    return model


def _step(setting: Setting, each: Candidate) -> dict[str, Any]:
    """Bytes: before anything, the most until the engine was there, and the most of two steps, Adam's included."""
    before = _used(setting)
    model = _made(setting, each)
    shape = each.shape
    length = min(LENGTH, setting.shape.length)
    rows = Shape(each.name, shape.hidden, shape.layers, shape.heads, shape.vocabulary, length)
    targets, pairs = new_rows(rows, BATCH, 1), new_rows(rows, BATCH, 2)
    every = np.arange(BATCH)
    reference = build_reference(model, pairs).batch(every, setting.device)
    weights = batch_weights(targets.labels, pairs.labels, np.ones(BATCH, dtype=bool), targets.columns, LossConfig())
    batch = Batch.gather(targets, pairs, every, weights, reference, setting.device)
    method = methods.get("icu", alpha=ALPHA, beta=BETA, settings={}, loss=LossConfig())
    engine = Engine(UnlearningModule(model, method), EngineSettings(1e-5, (0.9, 0.98), 1e-8, BATCH, 1, "bf16"), 0, 1)
    start = _peak(setting)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        engine.step([batch])
    found = {"before": before, "start": start, "step": _peak(setting)}
    engine.close()
    return {**found, "parameters": sum(p.numel() for p in model.parameters())}


def _used(setting: Setting) -> int:
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return _peak(setting)


def _peak(setting: Setting) -> int:
    if setting.device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
