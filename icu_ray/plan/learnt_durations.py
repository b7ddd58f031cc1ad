"""How long the trials of a sweep will take, learnt from those of it that have started.

    learnt = Learnt(courses)             # of trials that run or ended, in any order
    learnt.minutes(expected)             # of a trial that waits
    learnt.left(course)                  # of one that runs

A trial takes a fixed time (start, load, save) and its epochs times its pace, the minutes of one. What the plan expects
of the three is corrected by ratios of what was seen to what the plan expected there. Pace and fixed time follow the
model and the cell; the number of epochs follows the method and the cell on this model, whatever the sample, and more
weakly all trials of the sweep. The mean of a wider group counts as one further trial of the narrower one, so a few
trials correct a little and many a lot.

A trial that runs counts too, or the short ones, which end first, would speak for all: its curve says where it will end
(`part_of_way`), and weighs as much as the part of the way it has gone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from icu_ray.plan.thresholds import thresholds_of
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import EpochRecord

_Key: TypeAlias = tuple[object, ...]
_WIDER = 0.4
"""How many trials of a group the mean of the wider one counts as: in the quickstart 0.3 of the variance of epochs is
between the samples of a cell, 0.7 between cells."""


@dataclass(frozen=True)
class Expected:
    """What the plan expects of a trial.

    fixed: minutes beside its epochs. pace: minutes of an epoch. epochs: in all; done: of them by earlier runs; most:
    that it may take. cell: what its method is told, all but sample and seed.
    """

    model: str
    method: str
    cell: _Key
    fixed: float
    pace: float
    epochs: float
    most: float
    done: int = 0


@dataclass(frozen=True)
class Course:
    """How a trial has gone since its start.

    minutes: since then, of a trial that is over in all. epochs: told so far, those of earlier runs too. pace, fixed:
    as measured, None: not yet. part: 0..1 of the way to its thresholds.
    """

    expected: Expected
    minutes: float
    epochs: int
    pace: float | None = None
    fixed: float | None = None
    part: float = 0.0
    over: bool = False

    @property
    def told_epochs(self) -> float | None:
        """Epochs that it took, or will take if its curve goes on as it went; None: its curve says nothing yet."""
        if self.over:
            return self.epochs
        if self.part <= 0 or self.epochs == 0:
            return None
        return min(max(self.epochs / self.part, self.epochs + 1), max(self.expected.most, self.epochs))


def expected_of(trial: Trial, factor: float = 1.0) -> Expected:
    """Of a trial of the plan. factor: on its minutes."""
    settings, minutes = trial.settings, trial.minutes * factor
    cell = (settings.alpha, settings.beta, settings.lr, settings.batch_size, *sorted(settings.method_settings.items()))
    if trial.work is None:
        return Expected(trial.model.name, trial.label, cell, minutes, 0.0, 0.0, 0.0)
    # What ended on this machine may have told another fixed time; half of the whole it is at most.
    fixed = min(trial.work.start / 60, minutes / 2)
    epochs, most = trial.work.epochs, float(settings.max_epochs)
    pace = (minutes - fixed) / epochs
    return Expected(trial.model.name, trial.label, cell, fixed, pace, epochs, most, trial.epochs_done)


def part_of_way(history: Sequence[EpochRecord], trial: Trial) -> float:
    """How much of the way from the original model's MA and EL to the thresholds a trial has gone, 0..1.

    MA falls about evenly, so the part of the way is about the part of the epochs (benchmarks/README.md).
    """
    if len(history) < 2:
        return 0.0
    before, last = history[0].scores, history[-1].scores
    stop = trial.settings.stop
    limits = thresholds_of(stop, before, trial.settings.el.ngram)
    parts = [
        min(1.0, max(0.0, (first - now) / (first - limit)))
        for first, now, limit in ((before.ma, last.ma, limits.ma.value), (before.el, last.el, limits.el.value))
        if first is not None and now is not None and math.isfinite(limit) and first > limit
    ]
    return (min if stop.rule == "and" else max)(parts, default=0.0)


class Learnt:
    """What trials that started tell of others and of themselves. Nothing is learnt from none: the plan's own values."""

    def __init__(self, courses: Iterable[Course]) -> None:
        self._epochs, self._pace, self._fixed = _Ratios(prior=1.0), _Ratios(prior=0.0), _Ratios(prior=0.0)
        for course in courses:
            expected, told = course.expected, course.told_epochs
            if told is not None and expected.epochs > 0:
                weight = 1.0 if course.over else course.part
                self._epochs.add(_by_method(expected), told / expected.epochs, weight)
            if course.pace is not None and expected.pace > 0:
                self._pace.add(_by_model(expected), course.pace / expected.pace)
            if course.fixed is not None and expected.fixed > 0:
                self._fixed.add(_by_model(expected)[:2], course.fixed / expected.fixed)

    def epochs(self, expected: Expected) -> float:
        """In how many epochs a trial is expected to end that has not started."""
        return max(min(expected.epochs * self._epochs.of(_by_method(expected)), expected.most), expected.done)

    def minutes(self, expected: Expected) -> float:
        """How long a trial takes that has not started, or starts anew after `expected.done` epochs."""
        return self._fixed_of(expected) + (self.epochs(expected) - expected.done) * self._pace_of(expected)

    def left(self, course: Course) -> float:
        """Minutes until a trial ends that runs; 0 of one that is over."""
        if course.over:
            return 0.0
        expected = course.expected
        pace = self._pace_of(expected) if course.pace is None else course.pace
        fixed = self._fixed_of(expected)
        epochs, told = max(self.epochs(expected), course.epochs + 1.0), course.told_epochs
        if told is not None:
            epochs = course.part * told + (1 - course.part) * epochs
        if expected.epochs <= 0:
            epochs = 0.0
        epochs = min(epochs, max(expected.most, course.epochs))
        return max(0.0, fixed + (epochs - expected.done) * pace - course.minutes)

    def _pace_of(self, expected: Expected) -> float:
        return expected.pace * self._pace.of(_by_model(expected))

    def _fixed_of(self, expected: Expected) -> float:
        return expected.fixed * self._fixed.of(_by_model(expected)[:2])


def _by_method(expected: Expected) -> tuple[_Key, ...]:
    """The groups whose epochs are alike, widest first."""
    kind = (expected.model, expected.method)
    return (), kind, (*kind, expected.cell)


def _by_model(expected: Expected) -> tuple[_Key, ...]:
    """The groups whose pace is alike, widest first."""
    return (), (expected.model,), (expected.model, expected.method, expected.cell)


class _Ratios:
    """Means of ratios by group. prior: how many trials the plan's own ratio, 1, counts as among all."""

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._seen: defaultdict[_Key, list[tuple[float, float]]] = defaultdict(list)
        self._known: dict[tuple[_Key, ...], float] = {}

    def add(self, groups: Sequence[_Key], ratio: float, weight: float = 1.0) -> None:
        for group in groups:
            self._seen[group].append((ratio, weight))

    def of(self, groups: tuple[_Key, ...]) -> float:
        """By the narrowest group, of which the wider ones' mean counts as part of one more trial."""
        if groups not in self._known:
            self._known[groups] = self._mean(groups)
        return self._known[groups]

    def _mean(self, groups: Sequence[_Key]) -> float:
        ratio, counts = 1.0, self._prior
        for group in groups:
            seen = self._seen.get(group, [])
            # Sums without rounding: the order in which trials are told must not matter.
            weight = math.fsum(weight for _, weight in seen) + counts
            if weight > 0:
                ratio = (math.fsum(each * by for each, by in seen) + counts * ratio) / weight
            counts = _WIDER
        return ratio
