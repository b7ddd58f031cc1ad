"""The queue of a sweep puts what waits in order by what its running trials tell; the durations behind it and the time
left. Tune is played by the test, the trials' files are real.

Needs: nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icu_ray.plan.grid import Plan
from icu_ray.plan.schedule import NO_LIMITS, Node
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import EpochRecord, Scores, TrialResult, TrialSpec
from icu_ray.storage.trial_files import TrialPaths, read_events, start_trial, write_events, write_result
from icu_ray.sweep.trial_durations import TrialDurations
from icu_ray.sweep.trial_queue import TrialQueue
from tests.sweep.test_prepare import plan_of


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the clock, which the test sets."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def sweep(folder: Path) -> tuple[Plan, list[Trial]]:
    """Four cells of two samples, each expected to take 10 minutes: one to start, and 9 of epochs."""
    plan = plan_of(folder, samples=[0, 1])
    trials = []
    for trial in plan.trials:
        assert trial.work is not None
        trials.append(replace(trial, minutes=10.0, work=replace(trial.work, start=60.0, epochs=9.0)))
    return replace(plan, trials=tuple(trials)), trials


def paths_of(plan: Plan, trial: Trial) -> TrialPaths:
    return TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)


def tell(plan: Plan, trial: Trial, epochs: int, true: int) -> None:
    """Write what a trial tells that will end after `true` epochs, its MA falling evenly."""
    paths, stop = paths_of(plan, trial), trial.settings.stop
    assert isinstance(stop.ma, float)
    start_trial(paths, TrialSpec(trial.trial_id, trial.name, trial.model.name, trial.label, trial.sample, {}))
    history = []
    for epoch in range(epochs + 1):
        part = epoch / true
        scores = Scores(0.95 - (0.95 - stop.ma) * part, 0.0, 1.0, None, None, None, ngram=5)
        history.append(EpochRecord(epoch, 4, scores))
    write_events(paths, history)


def end(plan: Plan, trial: Trial, epochs: int) -> None:
    values: dict[str, Any] = {"status": "finished", "reason": "", "epochs": epochs, "before": None, "after": None}
    values["seconds"] = {}
    named = {"name": trial.name, "model": trial.model.name, "method": trial.label, "sample": trial.sample}
    write_result(paths_of(plan, trial), TrialResult(trial_id=trial.trial_id, hyperparameters={}, **named, **values))


class Events:
    """What RunningTrials does of a queue's events for the durations."""

    def __init__(self, durations: TrialDurations, again: bool = False) -> None:
        self.durations, self.again = durations, again

    def may_start(self) -> bool:
        return True

    def minutes(self) -> Mapping[str, float]:
        return self.durations.minutes()

    def started(self, trial_id: str) -> None:
        self.durations.started(trial_id)

    def placed(self, trial_id: str, workers: int, next_workers: int) -> None:
        pass

    def ended(self, trial_id: str, crashed: bool, placement_group: str | None) -> bool:
        self.durations.ended(trial_id, again=crashed)
        return crashed


def observe(plan: Plan, trials: list[Trial], durations: TrialDurations) -> None:
    durations.observe({trial.name: read_events(paths_of(plan, trial)) for trial in trials})


def started(queue: TrialQueue, name: str) -> str:
    asked = queue.suggest(name)
    assert isinstance(asked, dict), asked
    return str(asked["trial_id"])


def test_the_queue_is_put_in_order_by_what_is_learnt(tmp_path: Path, now: list[float]) -> None:
    plan, trials = sweep(tmp_path)
    by_id = {trial.trial_id: trial for trial in trials}
    durations = TrialDurations(plan)
    queue = TrialQueue(trials, lambda: (Node("n", 4.0),), NO_LIMITS, Events(durations))
    first = [by_id[started(queue, f"tune-{number}")] for number in range(4)]
    assert first == trials[:4] and queue.suggest("tune-4") is None  # of equals the plan's order; four fit
    assert [trial.sample for trial in first] == [0] * 4
    assert durations.left() is None
    true = dict(zip((trial.trial_id for trial in first), (4, 30, 5, 20), strict=True))
    for epoch in range(5):  # an epoch takes a minute, as expected, and the start as long
        now[0] += 60
        for trial in first:
            tell(plan, trial, min(epoch, true[trial.trial_id]), true[trial.trial_id])
        observe(plan, first, durations)
    end(plan, first[0], 4)
    queue.on_trial_complete("tune-0")
    # Of the other sample the cell comes next whose curve is the slowest, and then the next slowest.
    order = [by_id[started(queue, "tune-5")]]
    queue.on_trial_complete("tune-2")
    order.append(by_id[started(queue, "tune-6")])
    cells = [(trial.settings.alpha, trial.settings.beta) for trial in first]
    assert [(trial.settings.alpha, trial.settings.beta) for trial in order] == [cells[1], cells[3]]
    assert [trial.sample for trial in order] == [1, 1]
    # So it does with what waits alone: nothing of that was in the plan's order.
    assert trials.index(order[0]) > 4
    # Minutes are told of what runs and waits, and not of what has ended.
    told = durations.minutes()
    assert set(told) == {trial.trial_id for trial in trials} - {first[0].trial_id, first[2].trial_id}
    assert told[first[1].trial_id] > told[first[3].trial_id] > 10


def test_a_trial_that_is_offered_again_stays_first_and_goes_on(tmp_path: Path, now: list[float]) -> None:
    plan, trials = sweep(tmp_path)
    durations = TrialDurations(plan)
    queue = TrialQueue(trials, lambda: (Node("n", 1.0),), NO_LIMITS, Events(durations))
    assert started(queue, "tune-0") == trials[0].trial_id
    for epoch in range(9):
        now[0] += 60
        tell(plan, trials[0], epoch, 9)
        observe(plan, trials[:1], durations)
    queue.on_trial_complete("tune-0", error=True)
    # One epoch is left of it and all of the others, and yet it comes before them.
    assert durations.minutes()[trials[0].trial_id] == pytest.approx(2.0, rel=0.2)
    now[0] += 60
    assert started(queue, "tune-1") == trials[0].trial_id
    # Its old records are no news: the start that follows is no epoch.
    now[0] += 300
    observe(plan, trials[:1], durations)
    assert durations.minutes()[trials[0].trial_id] >= 5


def test_the_time_left_of_trials_that_are_not_alike(tmp_path: Path, now: list[float]) -> None:
    """Two at a time; the first to start are by far the slowest, in a plan that took all for alike."""
    plan, trials = sweep(tmp_path)
    durations = TrialDurations(plan)
    true = {trial.trial_id: 20 if trial.settings.alpha == trials[0].settings.alpha else 3 for trial in trials}
    waiting, running, began = list(trials), list[Trial](), dict[str, float]()
    said: list[tuple[float, float]] = []
    while waiting or running:
        while waiting and len(running) < 2:
            running.append(waiting.pop(0))
            began[running[-1].trial_id] = now[0]
            durations.started(running[-1].trial_id)
        now[0] += 60
        for trial in list(running):
            epochs = int((now[0] - began[trial.trial_id]) / 60) - 1
            tell(plan, trial, epochs, true[trial.trial_id])
            observe(plan, running, durations)
            if epochs == true[trial.trial_id]:
                end(plan, trial, epochs)
                durations.ended(trial.trial_id)
                running.remove(trial)
        left = durations.left()
        if left is not None:
            said.append((now[0], left))
    assert durations.left() is None
    errors = [(left, now[0] - at) for at, left in said]
    # Once the two slow ones of the first sample have ended, their mean would say 6 x 11 minutes where 26 are left.
    half = [(left, truth) for left, truth in errors if truth <= 26 * 60]
    assert len(half) > 20 and all(truth / 1.5 <= left <= max(1.5 * truth, truth + 240) for left, truth in half), half


def test_what_an_earlier_run_ended_is_known(tmp_path: Path, now: list[float]) -> None:
    plan, trials = sweep(tmp_path)
    ended = replace(trials[0], status="finished", took=4.0, epochs_done=3, minutes=10.0)
    # The plan has corrected what waits by what ended: 10 minutes were expected, 4 it took.
    others = [replace(trial, minutes=4.0) for trial in trials[1:]]
    durations = TrialDurations(replace(plan, trials=(ended, *others)))
    told = durations.minutes()
    assert set(told) == {trial.trial_id for trial in others}
    # That is said once: the same 4 minutes where the cell says nothing else.
    alike = [told[trial.trial_id] for trial in others if trial.settings.alpha == ended.settings.alpha]
    assert all(1.5 <= minutes <= 6 for minutes in told.values()) and alike
