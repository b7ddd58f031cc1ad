"""Two sweeps side by side: in which settings, data, versions and trials they differ, and by how much in their numbers.

    difference = sweep_difference(collect([first]), collect([second])); difference.equal

A row is a method with its weights on a model. Its numbers are taken of the forget samples that both sweeps have
measured; of a single sample, of the seeds. A difference is that of the second sweep minus the first, over pairs of the
same sample. Of one pair alone there is no interval; a benchmark's measure then has one over the rows that were asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from icu_ray import methods
from icu_ray.report.collect import Collected, ReportedTrial
from icu_ray.report.numbers.columns import MORE_MEASURES, PPL_RATIO, Column, columns_of, evaluated_metrics
from icu_ray.report.numbers.row_differences import RowValues
from icu_ray.report.numbers.rows import row_name, weights_of
from icu_ray.report.numbers.settings_difference import (
    KeyDifference,
    data_of,
    key_differences,
    settings_of,
    versions_of,
)
from icu_ray.report.numbers.statistics import (
    Estimate,
    Over,
    PairedTest,
    mean_interval,
    paired_tests,
    repeated_over,
    repetitions,
)
from icu_ray.report.numbers.summary import ppl_ratio
from icu_ray.report.numbers.variants import differing_keys
from icu_ray.storage.flat import flatten

_HOW_IT_RAN = ("tracking", "resources")
"""Sections that decide no result."""
_NO_VARIANT = ("sample", "seed", "format", "method.alpha", "method.beta")


@dataclass(frozen=True)
class NumberPair:
    """One metric of one row. unit: '%', or '' for none. None for a side that did not measure it.

    test: second minus first; n = 0 where no sample was measured on both sides, and then `first` and `second` are means
    of what each has. over: what the pairs are. rows: of a single pair, the test over its rows, where they are known.
    """

    model: str
    row: str
    key: str
    heading: str
    decimals: int | None
    unit: str
    first: Estimate | None
    second: Estimate | None
    test: PairedTest
    over: Over
    equal: bool
    rows: PairedTest | None = None


@dataclass(frozen=True)
class SweepDifference:
    """How two sweeps differ. running: settings that decide no result. trials_*: names, by who alone has the trial.

    results_*: trials of both, by who alone has a result of them. broken: a line for each file of rows that could not be
    read.
    """

    config: tuple[KeyDifference, ...]
    running: tuple[KeyDifference, ...]
    data: tuple[KeyDifference, ...]
    versions: tuple[KeyDifference, ...]
    trials_first: tuple[str, ...]
    trials_second: tuple[str, ...]
    results_first: tuple[str, ...]
    results_second: tuple[str, ...]
    numbers: tuple[NumberPair, ...]
    broken: tuple[str, ...] = ()

    @property
    def differing(self) -> tuple[NumberPair, ...]:
        """The numbers that are not equal."""
        return tuple(pair for pair in self.numbers if not pair.equal)

    @property
    def equal(self) -> bool:
        """Whether they differ in nothing but where and how they ran."""
        trials = self.trials_first, self.trials_second, self.results_first, self.results_second
        return not (self.config or self.data or self.versions or self.differing or any(trials))


def sweep_difference(first: Collected, second: Collected) -> SweepDifference:
    """Compare what was read of two sweeps."""
    every = [*_known(first), *_known(second)]
    varied = _varied(_known(first)) | _varied(_known(second))
    mine, theirs = _by_cell(first, varied), _by_cell(second, varied)
    measures, broken = _measures(every), list[str]()
    rows = RowValues(broken)
    keys = key_differences(settings_of(first), settings_of(second))
    sections = [(each, each.key.partition(".")[0]) for each in keys]
    numbers = tuple(
        pair
        for cell, trials in mine.items()
        if cell in theirs
        for measure in measures
        if (pair := _pair(cell, measure, trials, theirs[cell], rows)) is not None
    )
    return SweepDifference(
        config=tuple(each for each, section in sections if section not in _HOW_IT_RAN),
        running=tuple(each for each, section in sections if section in _HOW_IT_RAN),
        data=key_differences(data_of(first), data_of(second)),
        versions=key_differences(versions_of(first), versions_of(second)),
        trials_first=_missing_in(mine, theirs),
        trials_second=_missing_in(theirs, mine),
        results_first=_without_result_in(mine, theirs),
        results_second=_without_result_in(theirs, mine),
        numbers=numbers,
        broken=tuple(dict.fromkeys(broken)),
    )


def _known(found: Collected) -> list[ReportedTrial]:
    return [trial for trial in found.trials if trial.model != "?"]


_Cell: TypeAlias = tuple[str, str, float | None, float | None, str]
"""Model, method's label, alpha, beta, and what else its sweep varies."""


def _group(trial: ReportedTrial) -> tuple[str, str]:
    return trial.model, trial.method


def _settings(trial: ReportedTrial) -> dict[str, Any]:
    return {k: v for k, v in flatten(trial.settings).items() if not _is_below(k, _NO_VARIANT)}


def _is_below(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _varied(trials: Sequence[ReportedTrial]) -> set[tuple[str, str, str]]:
    """(model, method, key): settings of which a sweep's own trials have several, so that they tell its rows apart."""
    found = set()
    for group in dict.fromkeys(map(_group, trials)):
        # The gold standard is one a sample, whatever the methods were told.
        own = [t for t in trials if _group(t) == group and t.settings and t.base_method != methods.RETRAINED]
        found |= {(*group, key) for key in differing_keys([_settings(trial) for trial in own])}
    return found


def _by_cell(found: Collected, varied: set[tuple[str, str, str]]) -> dict[_Cell, list[ReportedTrial]]:
    cells: dict[_Cell, list[ReportedTrial]] = {}
    for trial in _known(found):
        told = {k: v for k, v in _settings(trial).items() if (*_group(trial), k) in varied}
        variant = ", ".join(f"{key.removeprefix('method.settings.')}={told[key]}" for key in sorted(told))
        cells.setdefault((*_group(trial), *weights_of(trial), variant), []).append(trial)
    return cells


_Cells: TypeAlias = Mapping[_Cell, Sequence[ReportedTrial]]


def _missing_in(here: _Cells, there: _Cells) -> tuple[str, ...]:
    """Trials of cells and samples that the other side did not plan; its seeds do not count."""
    known = {(cell, trial.sample) for cell, trials in there.items() for trial in trials}
    return tuple(t.name for cell, trials in here.items() for t in trials if (cell, t.sample) not in known)


def _without_result_in(here: _Cells, there: _Cells) -> tuple[str, ...]:
    """Trials with a result here of which the other side, which has them too, has none that counts."""
    planned = {(cell, trial.sample) for cell, trials in there.items() for trial in trials}
    ended = {(cell, t.sample) for cell, trials in there.items() for t in trials if t.measured is not None}
    return tuple(
        trial.name
        for cell, trials in here.items()
        for trial in trials
        if trial.measured is not None and (cell, trial.sample) in planned - ended
    )


@dataclass(frozen=True)
class _Measure:
    """A metric of a trial. decimals: None for four figures."""

    key: str
    heading: str
    decimals: int | None
    unit: str
    read: Callable[[ReportedTrial], float | None]


def _measures(trials: Sequence[ReportedTrial]) -> list[_Measure]:
    """The columns of the report, the further measures of trials.csv, then those of evaluation and audit by name."""
    evaluated = evaluated_metrics(t.metrics() for t in trials)
    own = [*columns_of((trial.ngram for trial in trials), evaluated), *MORE_MEASURES]
    names = dict.fromkeys(name for t in trials for name in t.metrics())
    shown = set(evaluated.values())
    return [*map(_of_column, own), *(_of_evaluation(name) for name in names if name not in shown)]


def _of_column(column: Column) -> _Measure:
    def read(trial: ReportedTrial) -> float | None:
        if trial.measured is None:
            return None
        if column.key == PPL_RATIO.key:
            return ppl_ratio(trial.measured)
        return column.value(trial.measured.after, trial.metrics(), "".join(column.metrics))

    return _Measure(column.in_files, column.heading, column.decimals, "%" if column.percent else "", read)


def _of_evaluation(name: str) -> _Measure:
    def read(trial: ReportedTrial) -> float | None:
        return None if trial.measured is None else trial.metrics().get(name)

    return _Measure(name, name, None, "", read)


def _pair(
    cell: _Cell,
    measure: _Measure,
    first: Sequence[ReportedTrial],
    second: Sequence[ReportedTrial],
    rows: RowValues,
) -> NumberPair | None:
    """None where neither side has measured it."""
    here, there = _values(measure, first), _values(measure, second)
    if not here and not there:
        return None
    over, mine, theirs = _paired(here, there, repeated_over(trial.unit for trial in (*first, *second)))
    test = paired_tests(theirs, mine)
    if not test.n:
        mine, theirs = (repetitions(((s, v) for (s, _), v in side.items()), over) for side in (here, there))
    model, label, alpha, beta, variant = cell
    return NumberPair(
        model,
        row_name(label, alpha, beta, variant),
        measure.key,
        measure.heading,
        measure.decimals,
        measure.unit,
        mean_interval(mine, over),
        mean_interval(theirs, over),
        test,
        over,
        equal=bool(test.n) and all(map(_same, mine, theirs)),
        rows=_over_rows(measure, here, there, first, second, rows) if test.n == 1 else None,
    )


def _over_rows(
    measure: _Measure,
    here: _Values,
    there: _Values,
    first: Sequence[ReportedTrial],
    second: Sequence[ReportedTrial],
    rows: RowValues,
) -> PairedTest | None:
    """Of the one trial of each side that is compared; None where that is a mean over several seeds."""
    both = set(here) & set(there)
    units = (both, both) if both else (set(here), set(there))
    if any(len(each) != 1 for each in units):
        return None
    mine, theirs = (
        next(trial for trial in trials if trial.unit in unit)
        for trials, unit in zip((first, second), units, strict=True)
    )
    return rows.test(measure.key, mine, theirs)


def _same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)


_Values: TypeAlias = Mapping[tuple[int, int | None], float]
"""A metric by (forget sample, seed)."""


def _values(measure: _Measure, trials: Sequence[ReportedTrial]) -> _Values:
    return {trial.unit: value for trial in trials if (value := measure.read(trial)) is not None}


def _paired(first: _Values, second: _Values, over: Over) -> tuple[Over, list[float], list[float]]:
    """What the pairs are over, and both sides' values of the samples, or seeds, that both have, in one order.

    Where they have samples but no seeds in common a sample's mean over its own seeds counts on each side.
    """
    units = [unit for unit in first if unit in second]
    if units:
        mine, theirs = (repetitions(((unit[0], side[unit]) for unit in units), over) for side in (first, second))
        return over, mine, theirs
    samples = {sample for sample, _ in first} & {sample for sample, _ in second}
    mine, theirs = (
        repetitions(sorted((sample, v) for (sample, _), v in side.items() if sample in samples), "forget samples")
        for side in (first, second)
    )
    return "forget samples", mine, theirs
