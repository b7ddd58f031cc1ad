"""What one trial is told, as one frozen value: it knows no cluster and no storage.

outcome = run_trial(trial.settings, data, model, tokenizer)        # training/loop.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icu_ray import methods
from icu_ray.config import (
    ElConfig,
    EvalConfig,
    FilterConfig,
    GenerateConfig,
    LossConfig,
    OptimConfig,
    StepConfig,
    StopConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from icu_ray.methods.base import Method


@dataclass(frozen=True)
class TrialSettings:
    """One trial of the grid: a method with its weights, on one model and one forget sample.

    method_settings: those of the method alone, as methods.get takes them.
    lr, batch_size (global), max_epochs: the model's own values where it has them, else the sweep's.
    step: the rule that makes steps of its gradients; None: plain descent.
    micro_batch: rows of one forward of one worker; None: all of a worker's share.
    leak: the part of a secret from which on a text has come back, where that is asked after every epoch; None: it is
    not.
    """

    method: str
    alpha: float
    beta: float
    lr: float
    batch_size: int
    max_epochs: int
    method_settings: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    seed: int = 42
    micro_batch: int | None = None
    precision: str = "fp32"
    zero_stage: int = 0
    offload_optimizer: bool = False
    activation_checkpointing: bool = False
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    filter: FilterConfig = FilterConfig()
    generate: GenerateConfig = GenerateConfig()
    el: ElConfig = ElConfig()
    eval: EvalConfig = EvalConfig()
    stop: StopConfig = StopConfig()
    step: StepConfig | None = None
    leak: float | None = None


def method_of(settings: TrialSettings) -> Method:
    """The method that a trial runs, with all that it is told."""
    return methods.get(
        settings.method,
        alpha=settings.alpha,
        beta=settings.beta,
        settings=settings.method_settings,
        loss=settings.loss,
        step=settings.step,
    )
