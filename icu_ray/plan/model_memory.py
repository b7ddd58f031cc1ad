"""What a worker of each model of a plan will hold, whether it fits, and what would.

    for each in memories(plan): each.name, each.need, each.better

From the model's config.json where it is on this machine, else from the figures of known models; a stand-in's are known.
Nothing is downloaded for it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from icu_ray.config import ModelConfig, StepConfig, SweepConfig
from icu_ray.models.folders import whole_model_here
from icu_ray.plan.grid import Plan, coming_trial
from icu_ray.plan.known_models import known_config
from icu_ray.plan.memory import USABLE, Memory, Use, fitting, memory_of
from icu_ray.plan.model_shapes import ModelShape, adapter_parameters, shape_of
from icu_ray.plan.trial import Trial
from icu_ray.plan.trial_settings import method_of

_ROWS = 128
"""Targets where their number is not known yet."""
STANDINS: Mapping[str, tuple[int, int, int]] = {"small": (128, 2, 4), "medium": (160, 4, 5), "large": (256, 6, 8)}
"""Width, layers and heads of stand-ins, as training/standin_models.py makes them."""
STANDIN_POSITIONS = 512
"""Which they have at least."""


@dataclass(frozen=True)
class ModelMemory:
    """One model of a plan. need: of the trial, or the fine-tuning, that needs most; None where `unknown` says why.

    room: bytes of a worker's GPU (resources.gpu_memory), None where nobody said. better: what would fit where this
    does not; None where it fits or nothing would.
    """

    name: str
    gpu: bool
    use: Use | None = None
    need: Memory | None = None
    unknown: str = ""
    room: float | None = None
    better: Use | None = None
    better_need: Memory | None = None

    @property
    def fits(self) -> bool | None:
        """Whether USABLE of the room holds it; None where one of both is not known."""
        return None if self.room is None or self.need is None else self.need.total <= USABLE * self.room


def memories(plan: Plan) -> tuple[ModelMemory, ...]:
    """One for each model that has trials, in the config's order."""
    coming = (coming_trial(plan),) if plan.config.search is not None and plan.open_trials else ()
    trials: dict[str, list[Trial]] = {}
    for trial in (*plan.trials, *coming):
        trials.setdefault(trial.model.name, []).append(trial)
    return tuple(_of(model, trials[model.name], plan) for model in plan.config.models if model.name in trials)


def _of(model: ModelConfig, trials: list[Trial], plan: Plan) -> ModelMemory:
    gpu, config = bool(model.gpus), plan.config
    described = _described(model, config)
    shape = None if described is None else shape_of(described)
    if shape is None:
        kind = None if described is None else described.get("model_type")
        unknown = "no config.json here" if described is None else f"no figures for models of type {kind}"
        return ModelMemory(model.name, gpu, unknown=unknown)
    rows = _ROWS if plan.data is None else max(sample.targets for sample in plan.data.samples.values())
    uses = {use_of(trial, config, rows, shape) for trial in trials}
    if model.train is not None:
        uses.add(finetuning_use(model, config, rows))
    use = max(uses, key=lambda each: memory_of(shape, each).total)
    need, given = memory_of(shape, use), config.resources.gpu_memory
    if given is None or not gpu:
        return ModelMemory(model.name, gpu, use, need)
    room = given * 1e9 * min(model.gpus_placed, 1)
    if need.total <= USABLE * room:
        return ModelMemory(model.name, gpu, use, need, room=room)
    better = fitting(shape, use, USABLE * room)
    return ModelMemory(
        model.name, gpu, use, need, "", room, better, None if better is None else memory_of(shape, better)
    )


def use_of(trial: Trial, config: SweepConfig, rows: int, shape: ModelShape) -> Use:
    """How a trial uses its model, of this shape. rows: targets of its sample."""
    model, settings, columns = trial.model, trial.settings, config.columns
    method = method_of(settings)
    # The original of a model with an adapter is the same model without it.
    live_and_free = model.lora is not None and config.kl.cache == "recompute"
    asked = columns.suffix_start - (columns.prefix_start if config.filter.prompt == "prefix" else 0)
    return replace(
        _use(model, config, rows, settings.batch_size, settings.micro_batch),
        paired=method.needs_pairs,
        answered=method.needs_alternates,
        beside=method.objective().beside,
        trainable=None if model.lora is None else adapter_parameters(shape, model.lora.rank),
        cache="none"
        if not (method.needs_reference or method.needs_target_reference) or live_and_free
        else config.kl.cache,
        prompt=asked,
        prompts=config.filter.batch_size,
        beams=config.filter.beams,
        kept=_copies(settings.step),
        began=method.fine_tunes,
        train=settings.max_epochs > 0,
    )


def _copies(step: StepConfig | None) -> int:
    """Of what is trained, in float32, at most at one time: gradients of parts, weights to go back to, an average."""
    if step is None:
        return 0
    return 4 if step.rule == "sam" else 3 + (step.settings["average"] < 1)


def finetuning_use(model: ModelConfig, config: SweepConfig, rows: int) -> Use:
    """How `train` uses a model, and its gold standard: all weights are trained, without pairs and original."""
    assert model.train is not None
    whole = _use(model, config, rows, model.train.batch_size, model.train.micro_batch)
    return replace(whole, paired=False, cache="none")


def _use(model: ModelConfig, config: SweepConfig, rows: int, batch: int, micro_batch: int | None) -> Use:
    """What all that is trained of a model has in common. rows: those that are measured after an epoch."""
    own = -(-batch // model.workers)
    return Use(
        workers=model.workers,
        stage=model.zero_stage,
        precision=model.precision,
        batch=batch,
        micro_batch=min(micro_batch or own, own),
        length=config.columns.length,
        suffix=config.columns.length - config.columns.suffix_start,
        checkpointing=model.activation_checkpointing,
        offload=model.offload_optimizer,
        gpu=bool(model.gpus),
        chunk=config.loss.chunk,
        rows=-(-rows // model.workers),
        chunk_measured=config.eval.chunk,
    )


def layers_of(model: ModelConfig, config: SweepConfig) -> int | None:
    """How many layers a model has; None where nothing at hand tells."""
    described = _described(model, config)
    shape = None if described is None else shape_of(described)
    return None if shape is None else shape.layers


def _described(model: ModelConfig, config: SweepConfig) -> Mapping[str, Any] | None:
    """The keys of a model's config.json; None where it is not at hand and the model is none of the known ones."""
    if model.standin is not None:
        hidden, layers, heads = STANDINS[model.standin.size]
        positions = max(config.columns.length, STANDIN_POSITIONS)
        tied = {"vocab_size": model.standin.vocabulary, "hidden_size": hidden, "tie_word_embeddings": True}
        if model.standin.family == "llama":
            wide = {"num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": hidden * 8 // 3}
            return {"model_type": "llama", **tied, **wide}
        sizes = {"num_layers": layers, "num_heads": heads, "max_position_embeddings": positions}
        return {"model_type": "gpt_neo", **tied, **sizes}
    assert model.source is not None
    folder = whole_model_here(model.source, model.revision)
    if folder is not None:
        with contextlib.suppress(OSError, ValueError):  # what is wrong with it, checking the model tells
            told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if isinstance(told, dict):
                return told
    return known_config(model.source)
