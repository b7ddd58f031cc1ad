"""Normalised scores of a table of methods (section VI, equations 10 and 11, as their printed values were made).

Each column is normalised over the rows of the table (its population): s_z by (v - mean) / std with the population's
own deviation (ddof 0), s_m by (v - min) / (max - min). Columns that should be high are added, those that should be low
are subtracted; the plus sign of equation (11) as printed does not give the printed values. Scores compare rows of one
table only.

    scores = normalised_scores(rows)          # services/score.py reads them from a file
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HIGHER_IS_BETTER = ("entropy", "cls", "dia", "gpt")
COLUMNS = ("el10", "ma", "bert", "entropy", "cls", "dia", "ppl_pile", "ppl_wikitext", "gpt")
PERPLEXITIES = ("ppl_pile", "ppl_wikitext", "ppl_heldout")
PRINTED_CAP = 1000.0
"""What '>1000' stands for: the printed scores follow when it enters as 1000. A larger perplexity does too, or a row of
which it is written out would rank below one of which it is not."""


@dataclass(frozen=True)
class MethodRow:
    """One row of a results table; values in the order of the columns that are scored."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class ScoreRow:
    """Normalised scores of one row within its population."""

    row: str
    s_z: float
    s_m: float


def normalised_scores(rows: Sequence[MethodRow], columns: Sequence[str] = COLUMNS) -> list[ScoreRow]:
    """s_z and s_m of every row; the population is `rows`. A column without spread tells rows apart by nothing: 0.

    A perplexity above PRINTED_CAP enters as that. With other columns than the paper's nine the sums are no s_z and s_m
    of the paper, and whoever shows them says so.
    """
    table = np.asarray([row.values for row in rows], dtype=np.float64)
    for place, column in enumerate(columns):
        if column in PERPLEXITIES:
            table[:, place] = np.minimum(table[:, place], PRINTED_CAP)
    signs = np.asarray([1.0 if column in HIGHER_IS_BETTER else -1.0 for column in columns])
    s_z = (_spread(table - table.mean(0), table.std(0)) * signs).sum(1)
    s_m = (_spread(table - table.min(0), table.max(0) - table.min(0)) * signs).sum(1)
    return [ScoreRow(row.name, float(z), float(m)) for row, z, m in zip(rows, s_z, s_m, strict=True)]


def _spread(distance: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    # Equal values give a deviation of rounding size, not of zero.
    flat = scale <= 1e-12 * np.maximum(1.0, np.abs(distance).max(0, initial=0.0))
    result: NDArray[np.float64] = np.where(flat, 0.0, distance / np.where(flat, 1.0, scale))
    return result
