"""How the trials of a sweep go, by the driver's clock and their epochs in storage; and what is learnt from it.

durations = TrialDurations(plan)
LiveView(plan, console, durations.observe, durations.left)      # who is told of the epochs, and asks for the time left
durations.started(trial_id); durations.ended(trial_id)
durations.minutes()                                             # of all that wait or run, for the queue
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from icu_ray.errors import UserError
from icu_ray.plan.estimate_correction import correction
from icu_ray.plan.grid import Plan, coming_trial
from icu_ray.plan.learnt_durations import Course, Expected, Learnt, expected_of, part_of_way
from icu_ray.plan.trial import DONE, Trial, worker_group_of
from icu_ray.storage.results import EpochRecord
from icu_ray.storage.trial_files import TrialPaths, read_result


@dataclass
class _Run:
    """A trial that runs. began: when; first, last: when its first and last record was seen, and of which epoch."""

    began: float
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    part: float = 0.0

    def course(self, expected: Expected, now: float, epochs: int | None = None) -> Course:
        """epochs: of a trial that is over."""
        minutes, pace, fixed = (now - self.began) / 60, None, None
        if self.first is not None and self.last is not None and self.last[1] > self.first[1]:
            pace = (self.last[0] - self.first[0]) / 60 / (self.last[1] - self.first[1])
            if epochs is not None:
                fixed = max(0.0, minutes - pace * (epochs - expected.done))
        told = expected.done if self.last is None else self.last[1]
        return Course(expected, minutes, told if epochs is None else epochs, pace, fixed, self.part, epochs is not None)


class TrialDurations:
    """Told what happens to trials; says how long each takes, as far as is known. All methods may be called by any
    thread. Of a search, the trials that are not chosen yet count as that of the middle of its space."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        factor = correction(plan.trials)
        self._trials = {trial.trial_id: trial for trial in plan.trials}
        # Those that wait are corrected by the plan.
        self._expected = {
            trial.trial_id: expected_of(trial, 1.0 if trial.took is None else factor(trial)) for trial in plan.trials
        }
        self._over = [_of_earlier_run(self._expected[t.trial_id], t.took) for t in plan.trials if t.took is not None]
        self._waiting = {trial.trial_id for trial in plan.waiting}
        self._open = plan.open_trials
        self._running: dict[str, _Run] = {}

    def add(self, trial: Trial) -> None:
        """A trial that a search has chosen."""
        with self._lock:
            self._trials[trial.trial_id], self._expected[trial.trial_id] = trial, expected_of(trial)
            self._waiting.add(trial.trial_id)
            self._open -= 1

    def started(self, trial_id: str) -> None:
        """A trial was handed to the cluster."""
        with self._lock:
            self._waiting.discard(trial_id)
            self._running[trial_id] = _Run(time.monotonic())

    def ended(self, trial_id: str, again: bool = False) -> None:
        """A trial is over, well or not. again: it waits for another start."""
        now, result = time.monotonic(), None
        with contextlib.suppress(UserError, OSError):  # nothing is learnt from a trial whose result cannot be read
            result = read_result(self._paths(trial_id))
        with self._lock:
            run = self._running.pop(trial_id, None)
            self._waiting.discard(trial_id)
            if again:
                self._waiting.add(trial_id)
                if run is not None and run.last is not None:  # it goes on from its last epoch
                    self._expected[trial_id] = replace(self._expected[trial_id], done=run.last[1])
            elif run is not None and result is not None and result.status in DONE:
                self._over.append(run.course(self._expected[trial_id], now, result.epochs))

    def observe(self, histories: Mapping[str, tuple[EpochRecord, ...]]) -> None:
        """What is in storage now of running trials, by name."""
        now = time.monotonic()
        with self._lock:
            for trial_id, run in self._running.items():
                trial = self._trials[trial_id]
                history = histories.get(trial.name, ())
                done = self._expected[trial_id].done
                # What an earlier run left is there before the trial itself has written.
                if not history or (done and history[-1].epoch <= done):
                    continue
                if run.last is None or history[-1].epoch > run.last[1]:
                    run.last = now, history[-1].epoch
                    run.first = run.first or run.last
                    run.part = part_of_way(history, trial)

    def minutes(self) -> dict[str, float]:
        """Expected of each trial that waits or runs, from its start to its end, by id."""
        now = time.monotonic()
        with self._lock:
            learnt, courses = self._learnt(now)
            running = {key: course.minutes + learnt.left(course) for key, course in courses.items()}
            return running | {key: learnt.minutes(self._expected[key]) for key in self._waiting}

    def left(self) -> float | None:
        """Seconds until the last trial ends, if as much goes on at a time as now; None while that cannot be known."""
        now = time.monotonic()
        with self._lock:
            learnt, courses = self._learnt(now)
            if not courses or not (self._over or any(course.pace is not None for course in courses.values())):
                return None
            minutes = {key: learnt.left(course) for key, course in courses.items()}
            minutes |= {key: learnt.minutes(self._expected[key]) for key in self._waiting}
            claims = {key: worker_group_of(self._trials[key]).claim for key in minutes}
            work, longest = sum(minutes[key] * claims[key] for key in minutes), max(minutes.values())
            if self._open > 0:
                coming = coming_trial(self._plan)
                each = learnt.minutes(expected_of(coming))
                work += self._open * each * worker_group_of(coming).claim
                longest = max(longest, each)
            return 60 * max(longest, work / sum(claims[key] for key in courses))

    def _learnt(self, now: float) -> tuple[Learnt, dict[str, Course]]:
        courses = {key: run.course(self._expected[key], now) for key, run in self._running.items()}
        return Learnt([*self._over, *courses.values()]), courses

    def _paths(self, trial_id: str) -> TrialPaths:
        return TrialPaths.of(self._plan.config.storage, self._plan.config.name, trial_id)


def _of_earlier_run(expected: Expected, took: float) -> Course:
    pace = (took - expected.fixed) / expected.done if expected.done and took > expected.fixed else None
    return Course(expected, took, expected.done, pace, part=1.0, over=True)
