"""How far each method's models are from the gold standard: the same model, trained without the texts to forget.

tables = distance_tables(blocks, columns)      # () where no model was retrained (models.N.retrained)

KS: the two-sample Kolmogorov-Smirnov test of the losses of the forgotten texts, each text's mean over its tokens, under
the unlearned model and under the retrained one. D is the largest distance between the two distributions, 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.columns import PPL_RATIO, Column
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.report.numbers.statistics import Estimate, mean_interval, repeated_over, repetitions

LEVEL = 0.05


@dataclass(frozen=True)
class Distance:
    """One trial's model, or the model before unlearning, beside the gold standard of the same model and sample.

    texts: how many were compared. loss: the mean of their losses minus the gold standard's: above 0 the model finds
    them less likely than one that never read them. differences: by column key, the model minus the gold standard.
    """

    sample: int
    seed: int | None
    texts: int
    ks: float | None
    p: float | None
    loss: float | None
    differences: dict[str, float | None]


@dataclass(frozen=True)
class DistanceRow:
    """A row of the main table and its distances, one for each of its trials that can be compared."""

    row: Row
    distances: tuple[Distance, ...]

    def mean(self, values: Sequence[float | None]) -> Estimate | None:
        """Over the row's repetitions, as in the main table. values: one for each of `distances`."""
        over = repeated_over((each.sample, each.seed) for each in self.distances)
        pairs = zip((each.sample for each in self.distances), values, strict=True)
        return mean_interval(repetitions(pairs, over), over)

    @property
    def told_apart(self) -> tuple[int, int]:
        """Of how many distances p is below 0.05, and how many have one."""
        known = [each.p for each in self.distances if each.p is not None]
        return sum(p < LEVEL for p in known), len(known)


@dataclass(frozen=True)
class DistanceTable:
    """One model's. columns: of the differences. texts: fewest that any test compared."""

    model: str
    columns: tuple[Column, ...]
    rows: tuple[DistanceRow, ...]

    @property
    def texts(self) -> int:
        """Fewest texts that any of its tests compared, 0 without any."""
        return min((each.texts for row in self.rows for each in row.distances if each.p is not None), default=0)

    @property
    def visible(self) -> float | None:
        """The D from which on p is about below 0.05 with so few texts (1.358 sqrt(2/n)); None without a test."""
        return 1.358 * math.sqrt(2 / self.texts) if self.texts else None


def distance_tables(blocks: Sequence[Block], columns: Sequence[Column]) -> tuple[DistanceTable, ...]:
    """One for each model that has a gold standard."""
    tables = []
    for block in blocks:
        golds = {_sample(trial): trial for row in block.rows if row.gold for trial in row.trials if _measured(trial)}
        shown = tuple(column for column in columns if column.key != PPL_RATIO.key)
        rows = [_row(row, block, golds, shown) for row in block.rows if not row.gold]
        if found := tuple(row for row in rows if row.distances):
            tables.append(DistanceTable(block.model, shown, found))
    return tuple(tables)


def _row(row: Row, block: Block, golds: dict[str, ReportedTrial], columns: Sequence[Column]) -> DistanceRow:
    if not row.before:
        pairs = [(trial, golds[_sample(trial)]) for trial in row.trials if _measured(trial) and _sample(trial) in golds]
        return DistanceRow(row, tuple(_distance(trial, gold, columns, before=False) for trial, gold in pairs))
    return DistanceRow(row, tuple(_distance(gold, gold, columns, before=True) for gold in golds.values()))


def _sample(trial: ReportedTrial) -> str:
    """What trials of one model on the same texts have in common, be they of different sweeps or configs."""
    return repr((trial.settings.get("model"), trial.settings.get("sample", trial.sample)))


def _measured(trial: ReportedTrial) -> bool:
    return trial.measured is not None and trial.measured.after is not None


def _distance(trial: ReportedTrial, gold: ReportedTrial, columns: Sequence[Column], before: bool) -> Distance:
    """before: of the model before unlearning, which every trial has measured."""
    assert trial.measured is not None and gold.measured is not None
    scores = trial.measured.before if before else trial.measured.after
    evaluated, of_gold = trial.metrics("before" if before else "after"), gold.metrics()
    differences: dict[str, float | None] = {}
    for column in columns:
        metric = "".join(column.metrics)
        own, golden = column.value(scores, evaluated, metric), column.value(gold.measured.after, of_gold, metric)
        differences[column.key] = None if own is None or golden is None else own - golden
    own_losses, gold_losses = _losses(trial, before), _losses(gold, before=False)
    both = [name for name in own_losses if name in gold_losses]
    own_values, gold_values = [own_losses[name] for name in both], [gold_losses[name] for name in both]
    ks, p = _ks(own_values, gold_values)
    loss = fmean(own_values) - fmean(gold_values) if both else None
    sample, seed = trial.unit
    return Distance(sample, None if before else seed, len(both), ks, p, loss, differences)


def _losses(trial: ReportedTrial, before: bool) -> dict[str, float]:
    """Of each text that was measured, by its id."""
    values = {each.id: each.loss_before if before else each.loss_after for each in trial.samples}
    return {name: value for name, value in values.items() if value is not None}


def _ks(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, float | None]:
    """D and its exact p; None where there is nothing to compare."""
    if not first:
        return None, None
    from scipy import stats  # type: ignore[import-untyped]

    found = stats.ks_2samp(first, second)
    return float(found.statistic), float(found.pvalue)
