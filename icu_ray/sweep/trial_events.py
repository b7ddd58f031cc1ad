"""What a trial queue tells of its trials: the protocol between sweep/trial_queue.py and sweep/running_trials.py.

    queue = TrialQueue(trials, nodes, limits, events)        # events: anything that has these methods

A trial is started once, placed whenever its workers have (re)started, and ended once; if it is offered again after its
end, all of that happens again. All calls come from the thread that runs Tune.
"""

from __future__ import annotations

from typing import Any, Protocol

from icu_ray.plan.trial import Trial


class TrialEvents(Protocol):
    """What happens to the trials of a queue, by trial id."""

    def may_start(self) -> bool:
        """Whether a further trial may start; once that is not so, the queue ends."""

    def started(self, trial_id: str) -> None:
        """The trial was handed to Tune; its workers have no place yet."""

    def placed(self, trial_id: str) -> None:
        """Its workers run."""

    def ended(self, trial_id: str, crashed: bool, placement_group: str | None) -> bool:
        """Tune is done with the trial; whether it is to be offered again, before all others.

        crashed: its process on the cluster died. placement_group: that of its workers, if they ever ran.
        """


class SearchEvents(TrialEvents, Protocol):
    """A search's trials are also made."""

    def chosen(self, trial: Trial) -> Any:
        """The searcher has chosen one more trial, which has not started; what Tune is to hand to it."""
