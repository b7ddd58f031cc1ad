"""How long a trial takes: what it does is counted from its config, and how fast that goes is known from elsewhere.

    estimate = estimate_of(model, config, rows=128)      # estimate.minutes, estimate.trials, estimate.error

How fast: by measured minutes of an epoch (minutes_per_epoch), else by trials of about this size that ended on this
machine (past_trials.py), else by the speed of its processor or GPU (machine_speed.py). estimate_correction.py corrects
estimates by trials of the same sweep, learnt_durations.py while it runs; budget.py says what they cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from icu_ray.config import FilterConfig, ModelConfig, SweepConfig
from icu_ray.data.encoder import BUNDLED
from icu_ray.methods.cost import Cost
from icu_ray.models.folders import whole_model_here
from icu_ray.models.hub import looks_local
from icu_ray.plan.machine_speed import core_flops, gpu_flops
from icu_ray.plan.models_here import shape_here
from icu_ray.plan.past_trials import Work, past_of

EXPECTED_EPOCHS = 12
"""Of a real model by the paper's settings."""
LARGE_STEP, LARGE_STEP_EPOCHS, ALONE_EPOCHS = 1e-4, 8, 2
"""From this learning rate on (the shipped configs' 5e-4 for stand-ins) fewer are needed: with pairs, and without."""
TRIAL_OVERHEAD_MINUTES, GPU_OVERHEAD_MINUTES = 0.13, 0.5
"""Start of the workers, loading and saving; without a GPU, and with."""
SAVED_BYTES, SAVED_A_SECOND = 16, 0.35e9
"""A checkpoint's bytes for each parameter, and how fast one is written if that is what took the seconds that stand in
no counter of the one run on a GPU (benchmarks/README.md)."""
STANDIN_PARAMETERS: Mapping[str, float] = {"small": 0.5e6, "medium": 1.2e6, "large": 3.5e6}
PAIRED = Cost({"target": 1, "pair": 1})
"""What a step of most methods takes."""
_PROBE = 2 * 5
_BUNDLED_LAYER, _BASE_LAYER, _LARGE_LAYER = 1.8e6, 7.1e6, 12.6e6
"""Parameters of one layer of the bundled encoder, of a BERT base and of a BERT large."""


@dataclass(frozen=True)
class Estimate:
    """Of one trial that does this work. trials: how many that ended on this machine tell it.

    error: the factor that it may be off by, as far as those trials say; None: they are none, or too few.
    """

    minutes: float
    work: Work
    trials: int = 0
    error: float | None = None


def estimate_of(
    model: ModelConfig,
    config: SweepConfig,
    rows: int | None,
    *,
    heldout: int = 0,
    cost: Cost = PAIRED,
    pool: int | None = None,
    epochs: int | None = None,
    most: int | None = None,
    lr: float | None = None,
) -> Estimate:
    """Of a trial that trains. rows: of its targets, one a window of a long text. cost: what its method's steps take.
    epochs: how many it takes, None: as many as trials of the kind usually do, and at most
    `most`; lr, most: None: the model's or the sweep's.

    pool: its rows, over which an epoch runs with train.anchor=retain.
    """
    lr = lr or model.lr or config.optim.lr
    most = most or model.max_epochs or config.stop.max_epochs
    work = work_of(model, config, rows, lr, heldout=heldout, cost=cost, pool=pool, epochs=epochs, most=most)
    if model.minutes_per_epoch is not None:
        return Estimate(work.epochs * model.minutes_per_epoch + work.start / 60, work)
    past = past_of(work)
    if past is not None:
        return Estimate(past.seconds(work, most) / 60, work, len(past.ended), past.error)
    rate = gpu_flops() if model.gpus else core_flops()
    computed = (work.counted("train", work.epochs) + work.counted("measure", work.epochs)) / rate
    return Estimate((work.start + computed + work.counted("save", work.epochs) / SAVED_A_SECOND) / 60, work)


def measuring_minutes(model: ModelConfig, config: SweepConfig, rows: int | None, heldout: int) -> float:
    """Of a trial that only measures a model, on its targets and the held-out texts."""
    work = work_of(model, config, rows, config.optim.lr, heldout=heldout, cost=PAIRED, epochs=1)
    rate = gpu_flops() if model.gpus else core_flops()
    return (work.start + (work.measure + work.end) / rate) / 60


def training_minutes(model: ModelConfig, config: SweepConfig, rows: int) -> float:
    """Of fine-tuning a model on so many rows, all `train.epochs` of it: 6 operations a parameter and token."""
    assert model.train is not None
    devices = model.workers * (model.gpus or model.cpus_per_worker)
    counted = 6 * parameters_of(model) * rows * config.columns.length * model.train.epochs / devices
    return counted / (gpu_flops() if model.gpus else core_flops()) / 60


def work_of(
    model: ModelConfig,
    config: SweepConfig,
    rows: int | None,
    lr: float,
    *,
    heldout: int,
    cost: Cost,
    pool: int | None = None,
    epochs: int | None = None,
    most: int | None = None,
) -> Work:
    """What a trial does, by device: a core or a GPU of each worker does its share.

    An epoch trains targets, pairs and second answers (6 operations a parameter and token) and probes the targets (2 a
    token, about five times their tokens by the exact fast algorithm at MA 0.6), as the end probes the held-out texts.
    BERTScore's encoder reads what the model said (2 a parameter and token): on stand-ins that is as much as the rest.
    """
    paired = "pair" in cost.passes
    expected = EXPECTED_EPOCHS if lr < LARGE_STEP else LARGE_STEP_EPOCHS if paired else ALONE_EPOCHS
    most = most or model.max_epochs or config.stop.max_epochs
    texts, parameters = rows or 128, parameters_of(model)
    tokens = texts * config.columns.length
    places = pool if pool is not None and config.train.anchor == "retain" else texts
    said = texts * (config.columns.length - config.columns.suffix_start)
    devices = model.workers * (model.gpus or model.cpus_per_worker)
    return Work(
        device="gpu" if model.gpus else "cpu",
        parameters=parameters,
        lr=lr,
        paired=paired,
        precision=model.precision,
        shared=0 < model.gpus < 1,
        start=60 * (GPU_OVERHEAD_MINUTES if model.gpus else TRIAL_OVERHEAD_MINUTES),
        epochs=epochs or min(expected, most),
        train=_of_a_place(cost, model, config, parameters) * places * config.columns.length / devices,
        measure=(parameters * tokens * _PROBE + _encoder(config.filter) * said * 2) / devices,
        save=parameters * SAVED_BYTES / model.workers,
        end=parameters * heldout * config.columns.length * _PROBE / devices,
    )


def _of_a_place(cost: Cost, model: ModelConfig, config: SweepConfig, parameters: float) -> float:
    """Operations of an epoch's training for each token of a target, with those beside it: 6 a parameter for each pass,
    2 for a forward alone, and 2 for each score that is computed once more, where the output matrix is known here."""
    alone = len(cost.after_epoch) + (len(cost.live) if config.kl.cache == "recompute" else 0)
    operations = parameters * (6 * sum(cost.passes.values()) + 2 * alone)
    if cost.rescored and (shape := shape_here(model, config)) is not None:
        operations += 2 * shape.head * sum(cost.passes[side] for side in cost.rescored)
    return operations


def _encoder(settings: FilterConfig) -> float:
    """Parameters that a token passes in BERTScore's encoder, its table of words left out."""
    if settings.encoder == BUNDLED:
        return _BUNDLED_LAYER * (settings.encoder_layer or 6)
    layer, layers = (_LARGE_LAYER, 24) if "large" in settings.encoder else (_BASE_LAYER, 12)
    return layer * (settings.encoder_layer or layers)


def parameters_of(model: ModelConfig) -> float:
    """Parameters by the weights of a model that is a folder, else by the size in its name (gpt-neo-1.3B: 1.3e9).

    1e8 where neither says any.
    """
    if model.standin is not None:
        return STANDIN_PARAMETERS[model.standin.size]
    folder = whole_model_here(model.source) if model.source is not None and looks_local(model.source) else None
    if folder is not None:
        files = [*folder.glob("*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
        if files:
            # Weights are kept in two bytes or in four; half the right number is near enough for an estimate.
            return sum(file.stat().st_size for file in files) / 4
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([mMbB])(?![A-Za-z])", model.source or "")
    return float(found[-1][0]) * (1e6 if found[-1][1] in "mM" else 1e9) if found else 1e8
