"""What a worker of each model of a plan will hold, whether it fits, and what would.

    for each in memories(plan): each.name, each.need, each.better

From the model's config.json where it is on this machine, else from the figures of known models; a stand-in's are known.
Nothing is downloaded for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.methods.cost import Cost
from icu_ray.plan.grid import Plan, coming_trial
from icu_ray.plan.memory import USABLE, Memory, Use, fitting, memory_of
from icu_ray.plan.model_shapes import ModelShape, adapter_parameters, shape_of
from icu_ray.plan.models_here import config_here
from icu_ray.plan.trial import Trial
from icu_ray.plan.trial_settings import method_of

_ROWS = 128
"""Targets where their number is not known yet."""


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
    described = config_here(model, config)
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
    cost = method.cost
    asked = columns.suffix_start - (columns.prefix_start if config.filter.prompt == "prefix" else 0)
    return replace(
        _use(model, config, rows, settings.batch_size, settings.micro_batch),
        sides=max(len(cost.passes), 1),
        beside=cost.beside,
        matrices=cost.matrices,
        trainable=None if model.lora is None else adapter_parameters(shape, model.lora.rank),
        cache=_cache(cost, model, config),
        prompt=asked,
        prompts=config.filter.batch_size,
        beams=config.filter.beams,
        kept=cost.copies,
        began=method.fine_tunes,
        train=settings.max_epochs > 0,
    )


def _cache(cost: Cost, model: ModelConfig, config: SweepConfig) -> Literal["hidden", "probs", "recompute", "none"]:
    """What a trial keeps of the original model on its device, beside hidden states of a layer."""
    live = config.kl.cache == "recompute"
    if not (cost.live if live else cost.original):
        return "none"
    # The original of a model with an adapter is the same model without it.
    return "none" if live and model.lora is not None else config.kl.cache


def finetuning_use(model: ModelConfig, config: SweepConfig, rows: int) -> Use:
    """How `train` uses a model, and its gold standard: all weights are trained, without pairs and original."""
    assert model.train is not None
    whole = _use(model, config, rows, model.train.batch_size, model.train.micro_batch)
    return replace(whole, sides=1, cache="none")


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
