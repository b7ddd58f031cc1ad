"""What is done when a trial starts, finds its place and ends: the components of a sweep are told, each its own part.

trials = RunningTrials(plan, tasks, task_of, provenance, view, durations, beside, interrupted)
queue = TrialQueue(trials.trials, nodes, limits, trials)
...                                 # Tune runs the queue
undone = trials.left()
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icu_ray.plan.budget import Budget
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial, worker_group_of
from icu_ray.report.terminal.live import LiveView, outcome_of
from icu_ray.storage.folders import remove
from icu_ray.storage.results import ENDED_EARLY, Provenance
from icu_ray.storage.trial_files import open_sweep
from icu_ray.sweep.trial_durations import TrialDurations
from icu_ray.sweep.trial_events import SearchEvents
from icu_ray.trial.task import TrialTask, spec_of, write_failure
from icu_ray.trial.trainable import HandedTask

if TYPE_CHECKING:
    from icu_ray.sweep.beside import BesideTrials

log = logging.getLogger(__name__)


@dataclass
class RunningTrials(SearchEvents):
    """Passes on what a queue tells of its trials, and decides whether a trial that died goes on.

    view: shows the trials. durations: learns how long they take. beside: evaluation and audit, as far as they are asked
    for, which take the room that the trials leave and ask the models of those that ended. budget: counts what the
    trials use, and says when no further one may start. None of them knows another, or this class.

    tasks: of the trials that wait, in their order. task_of: makes that of a trial which a search has chosen.
    interrupted: set when the user wants the end.
    """

    plan: Plan
    tasks: dict[str, TrialTask]
    task_of: Callable[[Trial], TrialTask]
    provenance: Provenance
    view: LiveView
    durations: TrialDurations
    beside: Sequence[BesideTrials]
    interrupted: threading.Event
    budget: Budget = field(init=False)
    trials: list[Trial] = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.plan.config, self.plan.trials)
        self.trials = [task.trial for task in self.tasks.values()]
        self._started: set[str] = set()
        self._crashes: Counter[str] = Counter()
        self._placements: Counter[str] = Counter()

    def may_start(self) -> bool:
        return not self.interrupted.is_set() and not self.budget.used_up()

    def minutes(self) -> Mapping[str, float]:
        return self.durations.minutes()

    def left(self) -> list[str]:
        """Trials that the budget did not allow."""
        names = [trial.name for trial in self.trials if trial.trial_id not in self._started]
        unchosen = self.plan.open_trials - sum(trial not in self.plan.trials for trial in self.trials)
        count = len(names) + max(0, unchosen)
        names += [f"{unchosen} that the search had not chosen yet"] if unchosen > 0 else []
        reason = self.budget.used_up()
        if not names or not reason or self.interrupted.is_set():
            return []
        return [f"{reason}: {count} trials were not started: {', '.join(names)}"]

    def chosen(self, trial: Trial) -> HandedTask:
        task = self.tasks[trial.trial_id] = self.task_of(trial)
        self.trials.append(trial)
        self.view.add(trial)
        self.durations.add(trial)
        config, provenance = self.plan.config, self.provenance
        everything = [*self.plan.trials, *(t for t in self.trials if t not in self.plan.trials)]
        specs, subjects = [spec_of(t) for t in everything], self.plan.subjects
        open_sweep(config.storage, config.name, provenance.config, specs, provenance, subjects)
        return HandedTask(task)

    def started(self, trial_id: str) -> None:
        self._started.add(trial_id)
        self.budget.started(self.tasks[trial_id].trial)
        self.view.started(trial_id)
        self.durations.started(trial_id)
        group = worker_group_of(self.tasks[trial_id].trial)
        for each in self.beside:
            each.started(self.tasks[trial_id].trial)
            each.waits(trial_id, group.workers * group.cpus, group.workers * group.gpus)

    def placed(self, trial_id: str) -> None:
        self._placements[trial_id] += 1
        if self._placements[trial_id] > 1:
            self.view.restarted(trial_id)
        for each in self.beside:
            each.placed(trial_id)

    def ended(self, trial_id: str, crashed: bool, placement_group: str | None) -> bool:
        task = self.tasks[trial_id]
        self.budget.ended(task.trial)
        outcome = outcome_of(self.plan, trial_id)
        if placement_group is not None and (crashed or outcome is None):
            from icu_ray.trial.trainer import free_placement_group  # imports Ray

            free_placement_group(placement_group)
        if outcome is None and not self.interrupted.is_set():
            # The scheduler of a search ends a trial without a word; everywhere else only death leaves no result.
            ended_early = self.plan.config.search is not None and not crashed
            if not ended_early and self._goes_on(task):
                self._started.discard(trial_id)
                self.durations.ended(trial_id, again=True)
                for each in self.beside:
                    each.ended(trial_id)
                return True
            outcome = _write_outcome(task, ended_early)
        self.durations.ended(trial_id)
        if outcome is not None:
            self.view.ended(trial_id, *outcome)
        for each in self.beside:
            each.ended(trial_id)
            each.add(task.trial)
        return False

    def _goes_on(self, task: TrialTask) -> bool:
        """Whether a trial that died is run again from its checkpoint: as often as its task has retries."""
        self._crashes[task.trial.trial_id] += 1
        if self._crashes[task.trial.trial_id] > task.retries:
            return False
        log.warning("the process of trial %s died; it continues from its checkpoint", task.trial.name)
        return True


def _write_outcome(task: TrialTask, ended_early: bool) -> tuple[str, str]:
    """Status and reason of a trial that left no result, and now has one."""
    status, reason = "failed", "its driver process on the cluster died"
    if ended_early:
        status, reason = "not_forgotten", ENDED_EARLY
        remove(task.paths.checkpoint)
    write_failure(task.trial, task.paths, reason, task.provenance, status)
    return status, reason
