"""What is learnt of durations while a sweep runs, and what the order of starts gains by it.

Needs: nothing.
"""

from __future__ import annotations

import random
import runpy
import statistics
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.plan.learnt_durations import Course, Expected, Learnt, expected_of, part_of_way
from icu_ray.plan.schedule import next_start
from icu_ray.storage.results import EpochRecord, Scores
from tests.sweep.test_prepare import plan_of

minutes = st.floats(0.01, 1000)
ratio = st.floats(0.1, 10)


@st.composite
def expectations(draw: st.DrawFn) -> Expected:
    most = draw(st.integers(1, 60))
    done = draw(st.integers(0, most))
    epochs = draw(st.floats(1, most))
    model, method = draw(st.sampled_from(["small", "large"])), draw(st.sampled_from(["icu", "kl"]))
    cell = draw(st.sampled_from([(0.5,), (1.0,)]))
    return Expected(model, method, cell, draw(minutes), draw(minutes), epochs, most, done)


@st.composite
def courses(draw: st.DrawFn) -> Course:
    expected = draw(expectations())
    epochs = draw(st.integers(expected.done, int(expected.most)))
    pace, fixed = draw(st.none() | minutes), draw(st.none() | st.floats(0, 100))
    return Course(expected, draw(st.floats(0, 1e5)), epochs, pace, fixed, draw(st.floats(0, 1)), draw(st.booleans()))


def over(expected: Expected, epochs: float, pace: float, fixed: float) -> Course:
    took = fixed * expected.fixed + epochs * expected.epochs * pace * expected.pace
    told = round(epochs * expected.epochs)
    return Course(expected, took, told, pace * expected.pace, fixed * expected.fixed, 1.0, over=True)


@given(st.lists(courses(), max_size=12), expectations(), st.integers())
def test_never_negative_and_in_any_order(seen: list[Course], waits: Expected, seed: int) -> None:
    learnt, shuffled = Learnt(seen), random.Random(seed).sample(seen, len(seen))
    again = Learnt(shuffled)
    assert learnt.minutes(waits) == again.minutes(waits) >= 0
    assert waits.done <= learnt.epochs(waits) <= waits.most
    for course in seen:
        assert learnt.left(course) == again.left(course) >= 0
        assert not course.over or learnt.left(course) == 0


@given(expectations())
def test_the_plan_is_believed_while_nothing_is_known(waits: Expected) -> None:
    waits = replace(waits, done=0)
    assert Learnt([]).epochs(waits) == pytest.approx(waits.epochs)
    assert Learnt([]).minutes(waits) == pytest.approx(waits.fixed + waits.epochs * waits.pace)


@given(st.lists(expectations(), min_size=1, max_size=12), ratio, ratio, expectations())
def test_pace_and_start_are_exact_once_all_agree(
    seen: list[Expected], pace: float, fixed: float, one: Expected
) -> None:
    """The fixed time and the pace, that is; of the number of epochs the plan keeps a say."""
    learnt = Learnt([over(replace(each, done=0), 1.0, pace, fixed) for each in seen])
    one = replace(one, done=0)
    expected = fixed * one.fixed + learnt.epochs(one) * pace * one.pace
    assert learnt.minutes(one) == pytest.approx(expected)


def test_epochs_follow_the_cell_then_the_method_then_all() -> None:
    def of(model: str, method: str, cell: float) -> Expected:
        return Expected(model, method, (cell,), fixed=1.0, pace=1.0, epochs=12.0, most=50.0)

    ended = [Course(of("small", "icu", 0.5), 25.0, 24, 1.0, 1.0, 1.0, over=True)] * 5
    learnt = Learnt([*ended, *[Course(of("small", "kl", 0.5), 13.0, 12, 1.0, 1.0, 1.0, over=True)] * 5])
    same, method = learnt.epochs(of("small", "icu", 0.5)), learnt.epochs(of("small", "icu", 1.0))
    model = learnt.epochs(of("large", "icu", 0.5))
    assert 24 > same > method > model > 12
    # The more samples of the cell have ended, the nearer.
    assert same < Learnt(ended * 20).epochs(of("small", "icu", 0.5)) == pytest.approx(24, rel=0.01)


def test_a_curve_tells_where_it_ends() -> None:
    expected = Expected("m", "icu", (), fixed=1.0, pace=2.0, epochs=12.0, most=50.0)
    # Half of the way after 10 epochs of a minute: 10 more. Nothing else is known, and the curve weighs a half.
    half = Course(expected, minutes=11.0, epochs=10, pace=1.0, part=0.5)
    assert half.told_epochs == 20
    assert 2 < Learnt([half]).left(half) <= 10
    near = replace(half, epochs=19, minutes=20.0, part=0.95)
    assert Learnt([near]).left(near) == pytest.approx(1.0, abs=0.3)
    # A trial past all that was expected still needs an epoch.
    late = replace(half, epochs=30, minutes=31.0, part=1.0)
    assert late.told_epochs == 31 and Learnt([late]).left(late) == pytest.approx(1.0)
    # No more than it may take.
    assert replace(half, part=0.01).told_epochs == 50


def test_trials_that_run_speak_against_the_short_ones_that_ended() -> None:
    expected = Expected("m", "icu", (), fixed=1.0, pace=1.0, epochs=12.0, most=50.0)
    ended = Course(expected, 5.0, 4, 1.0, 1.0, 1.0, over=True)
    running = [Course(expected, 7.0, 6, 1.0, None, 0.5)] * 3
    assert Learnt([ended]).epochs(expected) < Learnt([ended, *running]).epochs(expected)


def scores(ma: float | None, el: float | None, **more: Any) -> Scores:
    return Scores(ma, el, None, None, None, None, **more)


def test_the_way_to_the_thresholds(tmp_path: Path) -> None:
    trial = plan_of(tmp_path).trials[0]
    stop = trial.settings.stop
    assert not isinstance(stop.ma, str) and not isinstance(stop.el, str)

    def part(*told: Scores, rule: Any = "and", **changes: Any) -> float:
        changed = stop.model_copy(update={"rule": rule, **changes})
        history = [EpochRecord(number, 4, each) for number, each in enumerate(told)]
        return part_of_way(history, replace(trial, settings=replace(trial.settings, stop=changed)))

    before, ma, el = scores(1.0, 0.8, ma_heldout=0.5, heldout_texts=4), (1 + stop.ma) / 2, stop.el / 2
    assert part() == part(before) == 0
    assert part(before, scores(ma, el)) == pytest.approx(0.5) and part(before, scores(ma, el), rule="or") == 1
    assert part(before, scores(0.75, el), ma="heldout") == pytest.approx(0.5)
    # What was not measured, or was below its threshold before, says nothing; a worse model is at the beginning.
    assert part(before, scores(ma, None)) == pytest.approx(0.5)
    assert part(scores(0.9, 0.01), scores((0.9 + stop.ma) / 2, 0.01)) == pytest.approx(0.5)
    assert part(before, scores(1.0, 0.9)) == 0 == part(before, scores(None, None))


def test_the_plan_is_taken_apart_and_put_together(tmp_path: Path) -> None:
    for trial in plan_of(tmp_path).trials:
        expected = expected_of(trial, 2.0)
        assert Learnt([]).minutes(expected) == pytest.approx(2 * trial.minutes)
        assert expected.cell != expected_of(replace(trial, settings=replace(trial.settings, lr=1.0))).cell
        other = replace(trial, settings=replace(trial.settings, seed=7), sample=99)
        assert expected.cell == expected_of(other).cell
        # A trial that trains nothing takes its fixed time.
        alone = expected_of(replace(trial, work=None))
        assert Learnt([]).minutes(alone) == pytest.approx(trial.minutes)


def simulation(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """benchmarks/schedule.py, which imports its neighbours as a script does."""
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return runpy.run_path(str(folder / "schedule.py"))


def test_what_is_learnt_shortens_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's simulation where cells are alike, by counted minutes: the same on every machine."""
    run = simulation(monkeypatch)
    trials = run["grid"]("plan")
    groups = [run["worker_group_of"](trial) for trial in trials]
    nodes = [run["Node"](f"n{number}", 64, 8) for number in range(8)]
    by_plan = sorted(groups, key=run["by_work"])
    ours, before = [], []
    for seed in range(6):
        epochs = run["true_epochs"](trials, "alike", seed)
        true = run["true_minutes"](groups, epochs)
        packed = run["bounds"](groups, true, len(nodes))[1]
        learning = run["Learning"](trials, epochs, nodes, seed)
        for spans, update in ((ours, learning), (before, None)):
            told = run["simulate"](by_plan, true, nodes, next_start, update)
            assert len(told) == len(trials)
            spans.append(run["makespan"](told) / packed)
    assert min(ours) >= 1 and statistics.mean(ours) < 1.12 < statistics.mean(before)
