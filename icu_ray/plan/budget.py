"""What hours of machines cost, and what a sweep may still spend.

cost_of(gpu_hours, cpu_hours, load_prices(path)).by_kind      # {"on demand": 412.0, "spot": 160.3}
budget = Budget(config, trials); budget.used_up()             # which limit is reached, '' while none is
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icu_ray.config import PricesConfig, SweepConfig
from icu_ray.config.file import load_section
from icu_ray.errors import UserError
from icu_ray.plan.trial import Trial


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
