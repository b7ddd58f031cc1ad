"""Memory of a training step and of the original model's cache on the card, beside the plain form.

memory.py says the same of a CPU. What a plan reckons for each step stands beside it; largest.py has the largest model.
"""

from __future__ import annotations

import gc
from typing import Any, Literal

import numpy as np
import torch
from plain_step import EitherForm, Shape, neo_config, new_model, new_rows
from transformers import PreTrainedModel

from gpu_parts.setting import Setting
from icu_ray.config import LossConfig
from icu_ray.methods.base import Batch
from icu_ray.methods.weights import batch_weights
from icu_ray.models.reference import build_reference
from icu_ray.plan.memory import Use, memory_of
from icu_ray.plan.model_shapes import shape_of

BATCH = 8
LARGER = (Shape("GPT-Neo 1.3B", 2048, 24, 16, 50257, 200), Shape("GPT-Neo 2.7B", 2560, 32, 20, 50257, 200))


def measure(setting: Setting) -> None:
    """The part. Peaks are null on a CPU, where nobody counts them."""
    found: dict[str, Any] = {"steps": []}

    def add(shape: Shape, form: str, dtype: torch.dtype) -> torch.Tensor | None:
        row: dict[str, Any] = {"shape": shape.name, "form": form, "dtype": str(dtype).removeprefix("torch.")}
        gradient = None
        try:
            gradient, more = _step(setting, shape, form, dtype)
            row |= more
            if form == "ours":
                row["plan"] = _planned(shape, dtype)
        except RuntimeError as error:  # want of memory is one
            row["error"] = str(error).splitlines()[0]
        free(setting)
        found["steps"].append(row)
        setting.save("memory", found)
        return gradient

    ours, plain = (add(setting.shape, form, torch.float32) for form in ("ours", "plain"))
    if ours is not None and plain is not None:
        found["gradients_differ_by"] = float((ours - plain).abs().max() / plain.abs().max())
    add(setting.shape, "ours", torch.bfloat16)
    for shape in () if setting.tiny or setting.device == "cpu" else LARGER:
        add(shape, "ours", torch.float32)
    setting.save("memory", found)


def _planned(shape: Shape, dtype: torch.dtype) -> float:
    """Bytes that a plan reckons for the step above weights and cache."""
    described = shape_of(neo_config(shape).to_dict())
    assert described is not None
    precision: Literal["fp32", "bf16"] = "bf16" if dtype == torch.bfloat16 else "fp32"
    return memory_of(described, Use(micro_batch=BATCH, precision=precision, length=shape.length)).backward


def free(setting: Setting) -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()


def _allocated(setting: Setting) -> int:
    return torch.cuda.memory_allocated() if setting.device == "cuda" else 0


def _step(setting: Setting, shape: Shape, form: str, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, Any]]:
    """The gradient of a step's first matrix, and bytes: of weights, of what the step needs above them, of the cache."""
    with torch.device(setting.device):
        made: PreTrainedModel = new_model(shape)
    model = made.to(setting.device, dtype)  # type: ignore[arg-type]
    weights = _allocated(setting)
    targets, pairs = new_rows(shape, BATCH, 1), new_rows(shape, BATCH, 2)
    reference = build_reference(model, pairs, "probs" if form == "plain" else "hidden")
    free(setting)
    before_cache = _allocated(setting)
    cached = reference.batch(np.arange(BATCH), setting.device)
    cache = _allocated(setting) - before_cache
    with torch.no_grad():
        generator = torch.Generator(setting.device).manual_seed(1)
        for parameter in model.parameters():
            # As training would, so that the divergence has a gradient.
            noise = torch.randn(parameter.shape, generator=generator, device=setting.device)
            parameter += (0.002 * noise).to(dtype)
    module = EitherForm(model, form)
    row_weights = batch_weights(targets.labels, pairs.labels, np.ones(BATCH, dtype=bool), targets.columns, LossConfig())
    batch = Batch.gather(targets, pairs, np.arange(BATCH), row_weights, cached, setting.device)
    before = _allocated(setting)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    module(batch).total.backward()
    first = next(p for p in model.parameters() if p.grad is not None and p.dim() == 2)
    assert first.grad is not None
    told = {"parameters": sum(p.numel() for p in model.parameters())}
    if setting.device == "cpu":
        return first.grad.float().cpu(), {**told, "weights": None, "cache_batch": None, "step": None, "with_adam": None}
    peak = torch.cuda.max_memory_allocated()
    adam = 2 * 4 * told["parameters"]
    counted = {"weights": weights, "cache_batch": cache, "step": peak - before, "with_adam": peak + adam}
    return first.grad.float().cpu(), {**told, **counted}
