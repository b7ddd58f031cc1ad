"""What is said about rows together: scores of a model's methods, paired tests between them, their order in the paper.

    scores = block_scores(block); tests = block_tests(block); orders = block_orders(block)

Scores: s_z and s_m of the paper need its nine columns for every row of the population. Where some were not measured
the paper's scores are refused; a partial score over the columns that are there is given under its own name instead,
with the held-out perplexity standing in for the two perplexities when neither was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from icu_ray.metrics.scores import COLUMNS, MethodRow, normalised_scores
from icu_ray.report.numbers.columns import HELDOUT, PAPER_COLUMNS, Column
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.report.numbers.statistics import PairedTest, holm, paired_tests, repeated_over, repetitions


@dataclass(frozen=True)
class BlockScores:
    """Scores of one model's methods. s_z, s_m: by row name; columns: what they are made of.

    complete: all nine of the paper's columns, so that they are its s_z and s_m. left_out: rows without all columns.
    refused: why there are no scores, '' where there are.
    """

    model: str
    complete: bool
    columns: tuple[Column, ...]
    population: tuple[str, ...]
    left_out: tuple[str, ...]
    s_z: dict[str, float]
    s_m: dict[str, float]
    refused: str = ""

    @property
    def title(self) -> str:
        """What the scores are, in one line."""
        if self.complete:
            return "s_z and s_m over the paper's nine columns"
        if not self.columns:
            return "no scores"
        count = sum(column.key in COLUMNS for column in self.columns)
        names = ", ".join(column.heading for column in self.columns)
        more = "" if count == len(self.columns) else f", and {len(self.columns) - count} of ours"
        return (
            f"partial scores over {names} ({count} of the paper's 9 columns{more}): not comparable with its s_z and s_m"
        )


def block_scores(block: Block) -> BlockScores:
    """Scores of a block; its population is every method's row that has all the columns any row has."""
    rows = block.methods
    columns = [
        column
        for column in block.columns
        if (column.key in COLUMNS or column.ngram is not None) and any(row.values[column.key] for row in rows)
    ]
    # EL of two n is not one column: that which most rows have, and the others are left out.
    el = sorted(
        (c for c in columns if c.ngram is not None), key=lambda c: -sum(bool(row.values[c.key]) for row in rows)
    )
    columns = [column for column in columns if column not in el[1:]]
    keys = {column.key for column in columns}
    if not keys & {"ppl_pile", "ppl_wikitext"} and any(row.values[HELDOUT.key] for row in rows):
        columns.append(HELDOUT)
    whole = [row for row in rows if all(row.values[column.key] is not None for column in columns)]
    left_out = tuple(row.name for row in rows if row not in whole)
    complete = keys == set(COLUMNS)
    population = tuple(row.name for row in whole)
    if len(whole) < 2 or not columns:
        reason = "a score compares methods, and fewer than two have all columns"
        if not columns:
            reason = "nothing was measured" if rows else "no method was run on this model"
        return BlockScores(block.model, complete, tuple(columns), population, left_out, {}, {}, reason)
    table = [MethodRow(row.name, tuple(_scored(row, column) for column in columns)) for row in whole]
    scores = normalised_scores(table, [column.key for column in columns])
    return BlockScores(
        block.model,
        complete,
        tuple(columns),
        population,
        left_out,
        {score.row: score.s_z for score in scores},
        {score.row: score.s_m for score in scores},
    )


def _scored(row: Row, column: Column) -> float:
    estimate = row.values[column.key]
    assert estimate is not None
    return estimate.mean


@dataclass(frozen=True)
class Comparison:
    """`other` against `reference` in one metric.

    level: 'forget samples', 'seeds' of the same forget sample, or 'targets' of the same forget samples.
    """

    model: str
    column: str
    reference: str
    other: str
    level: str
    test: PairedTest
    p_holm: float | None


def reference_row(rows: Sequence[Row]) -> Row | None:
    """What others are compared with: ICU at the paper's (0.5, 1.0), else the first whole ICU row, else the first."""
    measured = [row for row in rows if any(row.values.values())]
    icu = [row for row in measured if row.method == "icu" and row.alpha and row.beta]
    paper = [row for row in icu if (row.alpha, row.beta) == (0.5, 1.0)]
    return next(iter(paper or icu or measured), None)


def block_tests(block: Block) -> tuple[Comparison, ...]:
    """The reference row against every other row, on the forget samples (and seeds) that both have, then on targets.

    p_holm adjusts the paired t-test's p of one metric for the number of rows it is made for.
    """
    reference = reference_row(block.methods)
    if reference is None:
        return ()
    others = [row for row in block.methods if row is not reference and any(row.values.values())]
    tests: list[Comparison] = []
    for column in block.columns:
        tests += _rows(block, column.heading, reference, [_unit_test(reference, row, column) for row in others])
    measures = [("ma", "MA (%)", None), *(("el", c.heading, c.ngram) for c in block.el_columns)]
    for key, heading, ngram in (*measures, ("bertscore", "BERT F1 (%)", None)):
        tests += _rows(block, heading, reference, [_target_test(reference, row, key, ngram) for row in others])
    return tuple(tests)


_Made = tuple[Row, str, PairedTest]
"""The row that the reference is compared with, over what, and the test."""


def _rows(block: Block, heading: str, reference: Row, results: Sequence[_Made]) -> list[Comparison]:
    made = [result for result in results if result[2].n]
    adjusted = holm([test.p_t for _, _, test in made])
    return [
        Comparison(block.model, heading, reference.name, row.name, level, test, p)
        for (row, level, test), p in zip(made, adjusted, strict=True)
    ]


def _unit_test(first: Row, second: Row, column: Column) -> _Made:
    pairs = [
        (unit[0], a, b)
        for unit, cell in first.cells.items()
        if unit in second.cells
        and (a := cell[column.key]) is not None
        and (b := second.cells[unit][column.key]) is not None
    ]
    over = repeated_over((*first.units, *second.units))
    sides = (((sample, a) for sample, a, _ in pairs), ((sample, b) for sample, _, b in pairs))
    return second, over, paired_tests(*(repetitions(side, over) for side in sides))


def _target_test(first: Row, second: Row, key: str, ngram: int | None) -> _Made:
    """A text counts once, with its means over the seeds that both rows have: seeds make no further texts."""
    mine, theirs = _targets(first, key, ngram), _targets(second, key, ngram)
    pairs: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for (sample, seed, name), value in mine.items():
        if (other := theirs.get((sample, seed, name))) is not None:
            pairs.setdefault((sample, name), []).append((value, other))
    sides = (
        [fmean(a for a, _ in each) for each in pairs.values()],
        [fmean(b for _, b in each) for each in pairs.values()],
    )
    return second, "targets", paired_tests(*sides)


def _targets(row: Row, key: str, ngram: int | None) -> dict[tuple[int, int | None, str], float]:
    """Percent of each target after unlearning, by (sample, seed, id). ngram: n of EL, None for other measures."""
    return {
        (*trial.unit, record.id): 100 * value
        for trial in row.trials
        if trial.measured is not None
        for record in trial.samples
        if ngram in (None, record.ngram) and (value := getattr(record, f"{key}_after")) is not None
    }


@dataclass(frozen=True)
class Order:
    """How one column orders a model's methods, here and in the paper, best first; agreeing: pairs in the same order."""

    model: str
    column: str
    here: tuple[str, ...]
    paper: tuple[str, ...]
    agreeing: int
    pairs: int


def block_orders(block: Block) -> tuple[Order, ...]:
    """For each column that two rows have, measured and printed; pairs that the paper prints equal do not count."""
    orders = []
    for column in PAPER_COLUMNS:
        known = [
            (row.name, mine.mean, printed)
            for row in block.methods
            if (mine := row.values[column.key]) is not None
            and row.paper is not None
            and (printed := row.paper.value(column.key)) is not None
        ]
        if len(known) < 2:
            continue
        sign = 1 if column.better == "lower" else -1
        pairs = [(a, b) for a, b in combinations(known, 2) if a[2] != b[2]]
        orders.append(
            Order(
                block.model,
                column.heading,
                tuple(name for name, mine, _ in sorted(known, key=lambda item: sign * item[1])),
                tuple(name for name, _, printed in sorted(known, key=lambda item: sign * item[2])),
                sum((a[1] - b[1]) * (a[2] - b[2]) > 0 for a, b in pairs),
                len(pairs),
            )
        )
    return tuple(orders)
