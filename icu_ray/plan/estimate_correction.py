"""Estimates of trials that wait, corrected by how long the sweep's earlier trials took; and how far they may be off.

trials = corrected(trials)
error_said(trials)         # "± 12 % a trial, by the 5 that have ended"
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from icu_ray.plan.machine_speed import is_measured
from icu_ray.plan.trial import Trial

UNMEASURED_ERROR = 3.0
"""An estimate by counted operations alone may be wrong by this factor."""
ENOUGH = 3
"""Trials from whose durations an error is told."""


def corrected(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that wait with the mean pace of those of the same model that ended; of any model where none of it did."""
    factor = correction(trials)
    return [
        trial if trial.took is not None else replace(trial, minutes=trial.minutes * factor(trial)) for trial in trials
    ]


def correction(trials: Sequence[Trial]) -> Callable[[Trial], float]:
    """What `corrected` multiplies the minutes of a trial of this model with."""
    paces = _paces(trials)
    every = [pace for known in paces.values() for pace in known]
    factors = {name: statistics.fmean(known) for name, known in paces.items()}
    other = statistics.fmean(every) if every else 1.0
    return lambda trial: factors.get(trial.model.name, other)


def _paces(trials: Sequence[Trial]) -> dict[str, list[float]]:
    """Measured over estimated minutes of the trials that ended, by model."""
    paces: dict[str, list[float]] = {}
    for trial in trials:
        if trial.took and trial.minutes > 0:
            paces.setdefault(trial.model.name, []).append(trial.took / trial.minutes)
    return paces


def error_said(trials: Sequence[Trial]) -> str:
    """How far the estimate of what waits may be off, and why."""
    paces = _paces(trials)
    waiting = {trial.model.name for trial in trials if trial.took is None}
    enough = [known for name, known in paces.items() if name in waiting and len(known) >= ENOUGH]
    if waiting and len(enough) == len(waiting):
        spread = max(statistics.stdev(known) / statistics.fmean(known) for known in enough)
        count = sum(map(len, enough))
        return f"± {100 * spread:.0f} % a trial, by the {count} that have ended"
    if paces:
        return "corrected by the few trials that have ended; a model with none of them may be off by a factor of 3"
    unmeasured = [trial for trial in trials if trial.took is None and trial.work is not None]
    if unmeasured and all(trial.told_by for trial in unmeasured):
        fewest = min(trial.told_by for trial in unmeasured)
        by = f"from {fewest} trial{'' if fewest == 1 else 's'} of about this size that ended on this machine"
        errors = [trial.error for trial in unmeasured]
        worst = max((error for error in errors if error is not None), default=None)
        if None in errors or worst is None:
            return f"{by}, too few to say how far it may be off"
        return f"{by}; four of five such estimates are within a factor of {worst:.1f}"
    devices = {trial.work.device for trial in unmeasured if trial.work is not None}
    here = bool(devices) and all(map(is_measured, devices))
    speed = " at the speed measured on this machine, where no such trial has ended yet" if here else ""
    return f"counted operations{speed}; a trial may be off by a factor of {UNMEASURED_ERROR:g}, see minutes_per_epoch"
