"""How long trials take, and what that costs: counted operations first, then what earlier trials of the sweep took.

minutes = estimate_minutes(model, config, targets=128)
trials = corrected(trials)                      # those that wait, by the pace of those that ended
costs = cost_of(gpu_hours, load_prices(path))   # {"on demand": 412.0, "spot": 160.3}
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.config import ModelConfig, PricesConfig, SweepConfig
from icu_ray.config.file import load_section
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from icu_ray.plan.trial import Trial

EXPECTED_EPOCHS = 12
TRIAL_OVERHEAD_MINUTES = 0.5
"""Start of the workers, loading and saving."""
GPU_FLOPS, CPU_FLOPS = 60e12, 20e9
"""Sustained floating point operations a second of one GPU (bf16/fp32 mix) and of one CPU core."""
STANDIN_PARAMETERS: Mapping[str, float] = {"small": 0.5e6, "medium": 1.2e6, "large": 3.5e6}
UNMEASURED_ERROR = 3.0
"""An estimate by counted operations alone may be wrong by this factor."""
ENOUGH = 3
"""Trials from whose durations an error is told."""


def estimate_minutes(model: ModelConfig, config: SweepConfig, targets: int | None) -> float:
    """Minutes of a trial: expected epochs times measured minutes_per_epoch, or times counted operations.

    An epoch trains targets and pairs (6 operations a parameter and token) and probes the targets (2 a token, about
    five times their tokens by the exact fast algorithm at MA 0.6).
    """
    epochs = min(EXPECTED_EPOCHS, model.max_epochs or config.stop.max_epochs)
    if model.minutes_per_epoch is not None:
        return epochs * model.minutes_per_epoch + TRIAL_OVERHEAD_MINUTES
    tokens = (targets or 128) * config.columns.length
    operations = parameters_of(model) * tokens * (6 * 2 + 2 * 5)
    rate = GPU_FLOPS * model.gpus if model.gpus else CPU_FLOPS * model.cpus_per_worker
    return epochs * operations / (rate * model.workers) / 60 + TRIAL_OVERHEAD_MINUTES


def parameters_of(model: ModelConfig) -> float:
    """Parameters by the size in a model's name (gpt-neo-1.3B: 1.3e9); 1e8 where the name says none."""
    if model.standin is not None:
        return STANDIN_PARAMETERS[model.standin.size]
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([mMbB])(?![A-Za-z])", model.source or "")
    return float(found[-1][0]) * (1e6 if found[-1][1] in "mM" else 1e9) if found else 1e8


def corrected(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that wait with the mean pace of those of the same model that ended; of any model where none of it did."""
    paces = _paces(trials)
    every = [pace for known in paces.values() for pace in known]
    if not every:
        return list(trials)
    factors = {name: statistics.fmean(known) for name, known in paces.items()}
    other = statistics.fmean(every)
    return [
        trial
        if trial.took is not None
        else replace(trial, minutes=trial.minutes * factors.get(trial.model.name, other))
        for trial in trials
    ]


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
        return "corrected by the few trials that have ended; a model of which none has may be off by a factor of 3"
    return f"counted operations, may be off by a factor of {UNMEASURED_ERROR:g}; see minutes_per_epoch"


class Budget:
    """What a sweep may still spend: hours and money of trials that ran and that run, against the config's limits.

    trials: the sweep's, with what they have `spent` in earlier runs, whether they ended, failed or were interrupted.
    """

    def __init__(self, config: SweepConfig, trials: Sequence[Trial]) -> None:
        resources = config.resources
        self.max_hours, self.max_cost = resources.max_hours, resources.max_cost
        self.prices = None if resources.prices is None else load_prices(Path(resources.prices))
        self.kind = "spot" if resources.spot else "on demand"
        self._gpus = any(model.gpus for model in config.models)
        if self.prices is not None:
            if self.kind not in cost_of(0, 0, self.prices).by_kind:
                raise UserError(f"resources.spot: {resources.prices} has no spot_gpu_hour")
            without = [model.name for model in config.models if not model.gpus]
            key = "spot_cpu_hour" if resources.spot else "cpu_hour"
            if self.max_cost is not None and without and getattr(self.prices, key) is None:
                raise UserError(
                    f"resources.max_cost: {resources.prices} has no {key}, but {without[0]} trains without GPUs"
                )
        self._ended = [(trial, trial.spent) for trial in trials]
        self._running: dict[str, tuple[Trial, float]] = {}

    def started(self, trial: Trial) -> None:
        """A trial takes its workers from now on."""
        self._running[trial.trial_id] = (trial, time.monotonic())

    def ended(self, trial: Trial) -> None:
        """It has given them back."""
        _, since = self._running.pop(trial.trial_id)
        self._ended.append((trial, (time.monotonic() - since) / 60))

    def spent(self) -> tuple[float, float]:
        """(GPU hours, hours of CPU cores of trials without GPUs) so far."""
        now = time.monotonic()
        taken = [*self._ended, *((trial, (now - since) / 60) for trial, since in self._running.values())]
        gpu = sum(minutes / 60 * trial.workers * trial.model.gpus for trial, minutes in taken)
        without = [(trial, minutes) for trial, minutes in taken if not trial.model.gpus]
        return gpu, sum(minutes / 60 * trial.workers * trial.model.cpus_per_worker for trial, minutes in without)

    def used_up(self) -> str:
        """Which limit is reached, '' while none is."""
        gpu, cpu = self.spent()
        hours = gpu if self._gpus else cpu
        if self.max_hours is not None and hours >= self.max_hours:
            return f"resources.max_hours={self.max_hours:g} is reached ({hours:.2f} h)"
        if self.max_cost is not None and self.prices is not None:
            cost = cost_of(gpu, cpu, self.prices)
            if cost.by_kind[self.kind] >= self.max_cost:
                return (
                    f"resources.max_cost={self.max_cost:g} is reached ({cost.by_kind[self.kind]:.2f} {cost.currency})"
                )
        return ""


@dataclass(frozen=True)
class Cost:
    """Money by kind of machine ('on demand', 'spot')."""

    currency: str
    by_kind: Mapping[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{value:,.2f} {self.currency} {kind}" for kind, value in self.by_kind.items())


def load_prices(path: Path) -> PricesConfig:
    """A price file; UserError for anything wrong in it."""
    return load_section(PricesConfig, path, (), "prices")


def cost_of(gpu_hours: float, cpu_hours: float, prices: PricesConfig) -> Cost:
    """What so many hours cost; where cores without a GPU have no spot price, they are had on demand."""
    spot_cpu = prices.cpu_hour if prices.spot_cpu_hour is None else prices.spot_cpu_hour
    kinds = {"on demand": (prices.gpu_hour, prices.cpu_hour), "spot": (prices.spot_gpu_hour, spot_cpu)}
    costs = {kind: gpu_hours * gpu + cpu_hours * (cpu or 0.0) for kind, (gpu, cpu) in kinds.items() if gpu is not None}
    return Cost(prices.currency, costs)
