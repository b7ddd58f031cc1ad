"""What an operator's Prometheus sees of a sweep beside Ray's own metrics; Ray exports them as ray_icu_....

observe = PrometheusMetrics(plan).observe          # in the driver, once Ray runs
observe(Counter(running=2, finished=5), histories)
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from icu_ray.plan.grid import Plan
from icu_ray.storage.results import EpochRecord

STATES = ("waiting", "running", "finished", "not_forgotten", "failed")


class PrometheusMetrics:
    """icu_trials by state, icu_epochs (total), icu_samples_left and icu_tokens_per_second by trial."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sweep = {"sweep": plan.config.name}
        self._trials = Gauge("icu_trials", "Trials of the sweep.", ("sweep", "state"))
        self._epochs = Counter("icu_epochs", "Epochs that trials have ended.", ("sweep",))
        self._left = Gauge("icu_samples_left", "Targets that a trial has not forgotten yet.", ("sweep", "trial"))
        self._speed = Gauge(
            "icu_tokens_per_second",
            "Tokens of targets and pairs in a trial's last epoch of training.",
            ("sweep", "trial"),
        )
        self._last_epochs: dict[str, int] = {}

    def observe(self, states: Mapping[str, int], histories: Mapping[str, tuple[EpochRecord, ...]]) -> None:
        """Set what is known now; histories: of running trials, by name."""
        for state in STATES:
            self._trials.set(states.get(state, 0), {**self._sweep, "state": state})
        for name, history in histories.items():
            if not history:
                continue
            last = history[-1]
            tags = {**self._sweep, "trial": name}
            self._left.set(last.active, tags)
            fresh = last.epoch - self._last_epochs.get(name, history[0].epoch)
            if fresh > 0:
                self._epochs.inc(fresh, self._sweep)
                self._last_epochs[name] = last.epoch
            seconds = last.seconds.get("train", 0.0)
            before = history[-2].active if len(history) > 1 else 0
            if seconds > 0:
                self._speed.set(2 * before * self._plan.config.columns.length / seconds, tags)
