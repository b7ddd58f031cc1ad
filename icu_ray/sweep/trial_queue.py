"""The queue of waiting trials, as a Tune Searcher: it offers the next trial only when its worker group may start.

    queue = TrialQueue(trials, nodes, limits, events)
    tune.TuneConfig(search_alg=queue, num_samples=-1, ...)

Tune asks `suggest` again and again; plan/schedule.py decides, knowing what runs where. So the order is the plan's,
trials of 1, 3 and 6 workers neither starve nor oversubscribe, and Tune's own trial ids do not matter: results are found
by ours. What becomes of the trials is told to a TrialEvents (sweep/trial_events.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from icu_ray.plan.schedule import Limits, Node, Placed, next_start
from icu_ray.plan.trial import Trial, worker_group_of
from icu_ray.sweep.trial_events import TrialEvents

REFRESH_SECONDS = 5.0
"""How often the cluster is asked which nodes it has."""


class TrialQueue(Searcher):
    """Offers waiting trials in order, each when it fits, with the node where all its workers should stand.

    Ray by itself puts a group on the node where most is left, and spreads it when several start at once and take each
    other's room. The node is None for a group that no node can hold; it may also be one that is still to be started.
    """

    def __init__(
        self, trials: Sequence[Trial], nodes: Callable[[], tuple[Node, ...]], limits: Limits, events: TrialEvents
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._waiting = [worker_group_of(trial) for trial in trials]
        self._running: dict[str, Placed] = {}
        self._placement_groups: dict[str, str] = {}
        self._nodes, self._limits, self._events = nodes, limits, events
        self._seen: tuple[float, tuple[Node, ...]] = (0.0, ())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Tune's question; None: ask again later."""
        if not self._events.may_start() or not (self._waiting or self._running):
            finished: str = Searcher.FINISHED
            return finished
        self._refresh()
        running = list(self._running.values())
        placed = next_start(self._waiting, running, self._seen[1], self._minutes(), self._limits)
        if placed is None:
            return None
        self._waiting.remove(placed.group)
        # Where Ray really puts the workers is known once they report; until then they count where they ought to be.
        self._running[trial_id] = placed
        self._events.started(placed.group.trial)
        return {"trial_id": placed.group.trial, "node": placed.node}

    def _refresh(self) -> None:
        if time.monotonic() - self._seen[0] > REFRESH_SECONDS:
            self._seen = (time.monotonic(), self._nodes())

    @staticmethod
    def _minutes() -> float:
        return time.monotonic() / 60

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A worker group has started: remember where."""
        placed = self._running.get(trial_id)
        if placed is not None and "nodes" in result:
            self._running[trial_id] = Placed(placed.group, tuple(result["nodes"]), placed.since)
            known, now = self._placement_groups.get(trial_id), str(result["placement_group"])
            self._placement_groups[trial_id] = now
            if known == now:
                return  # a report of an epoch, not of a start
            self._events.placed(placed.group.trial)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A trial is over, one way or another."""
        placed = self._running.pop(trial_id, None)
        if placed is None:
            return
        if self._events.ended(placed.group.trial, error, self._placement_groups.pop(trial_id, None)):
            self._waiting.insert(0, placed.group)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for a restore that we never ask for; ours is tied to this process."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept: a new driver plans from storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


class StopWhenAsked(Stopper):
    """Ends every trial at its next report, and the experiment, once `stopped` says so."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this trial ends."""
        return self._stopped()

    def stop_all(self) -> bool:
        """Whether all end."""
        return self._stopped()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing to restore."""
        return {}
