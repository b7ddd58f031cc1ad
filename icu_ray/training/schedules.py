"""The learning rate of each step: a warm-up, then constant, or falling to 0 at the last step.

    schedule = Schedule(1e-5, "linear", warm=12, steps=120)
    engine.set_learning_rate(schedule.rate(0))

A pure function of the step's number, so that a resumed trial needs no state to go on with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from icu_ray.plan.trial_settings import TrialSettings


@dataclass(frozen=True)
class Schedule:
    """lr: the highest; warm: steps of the warm-up; steps: all of them, those of the warm-up too. from_zero: whether the
    warm-up's first step has none of the rate, as in transformers, or the first part of it."""

    lr: float
    form: Literal["constant", "linear", "cosine"] = "constant"
    warm: int = 0
    steps: int = 1
    from_zero: bool = False

    @property
    def changes(self) -> bool:
        """Whether not all steps have the same rate."""
        return self.form != "constant" or self.warm > 0

    def rate(self, step: int) -> float:
        """Of a step, counted from 0.

        A warm-up of n steps goes from 1/n of the highest rate to all of it; from_zero: from 0 to (n - 1)/n, and the
        step after it is the first with all of it.
        """
        if step < self.warm:
            return self.lr * (step + (not self.from_zero)) / self.warm
        left = max(self.steps - step, 0) / max(self.steps - self.warm, 1)
        if self.form == "linear":
            return self.lr * left
        if self.form == "cosine":
            return self.lr * (1 - math.cos(math.pi * left)) / 2
        return self.lr


def schedule_of(settings: TrialSettings, places: int) -> Schedule:
    """A trial's. places: what an epoch runs over (rows of targets, or of the pool), forgotten ones too."""
    steps = -(-places // settings.batch_size) * settings.max_epochs
    if settings.stop.max_steps is not None:
        steps = min(steps, settings.stop.max_steps)
    warm = math.floor(settings.optim.warmup_epochs * places / settings.batch_size)
    return Schedule(settings.lr, settings.optim.schedule, min(warm, steps), steps, from_zero=True)
