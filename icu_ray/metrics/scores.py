"""Normalised scores of a table of methods (section VI, equations 10 and 11, as their printed values were made).

Each column is normalised over the rows of the table (its population): s_z by (v - mean) / std with the population's
own deviation (ddof 0), s_m by (v - min) / (max - min). Columns that should be high are added, those that should be low
are subtracted; the plus sign of equation (11) as printed does not give the printed values. Scores compare rows of one
table only.

    scores = normalised_scores(read_score_table(Path("table.csv")))
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icu_ray.errors import UserError, did_you_mean

HIGHER_IS_BETTER = ("entropy", "cls", "dia", "gpt")
COLUMNS = ("el10", "ma", "bert", "entropy", "cls", "dia", "ppl_pile", "ppl_wikitext", "gpt")
PRINTED_CAP = 1000.0
"""What '>1000' stands for: the printed scores follow when it enters as 1000."""


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

    With other columns than the paper's nine the sums are no s_z and s_m of the paper, and whoever shows them says so.
    """
    table = np.asarray([row.values for row in rows], dtype=np.float64)
    signs = np.asarray([1.0 if column in HIGHER_IS_BETTER else -1.0 for column in columns])
    s_z = (_spread(table - table.mean(0), table.std(0)) * signs).sum(1)
    s_m = (_spread(table - table.min(0), table.max(0) - table.min(0)) * signs).sum(1)
    return [ScoreRow(row.name, float(z), float(m)) for row, z, m in zip(rows, s_z, s_m, strict=True)]


def _spread(distance: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.float64]:
    # Equal values give a deviation of rounding size, not of zero.
    flat = scale <= 1e-12 * np.maximum(1.0, np.abs(distance).max(0, initial=0.0))
    result: NDArray[np.float64] = np.where(flat, 0.0, distance / np.where(flat, 1.0, scale))
    return result


def read_score_table(path: Path) -> list[MethodRow]:
    """Rows of a CSV with the columns row,el10,ma,bert,entropy,cls,dia,ppl_pile,ppl_wikitext,gpt ('>1000' allowed)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a CSV with the columns row,{','.join(COLUMNS)}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    header = [name.strip() for name in lines[0]] if lines else []
    for name in ("row", *COLUMNS):
        if name not in header:
            raise UserError(f"{path}: column '{name}' is missing{did_you_mean(name, header)}; found {header}")
        if header.count(name) > 1:
            raise UserError(f"{path}: column '{name}' stands there twice")
    rows: list[MethodRow] = []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: expected {len(header)} cells, found {len(line)}")
        cells = dict(zip(header, line, strict=True))
        name = cells["row"].strip()
        rows.append(MethodRow(name, tuple(_number(cells[c], c, name, path, number) for c in COLUMNS)))
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


def _number(text: str, column: str, row: str, path: Path, line: int) -> float:
    stripped = text.strip()
    where = f"{path}, line {line} (row '{row}'), column {column}"
    if not stripped:
        raise UserError(f"{where}: no value; rows without a score are left out of the population, remove the row")
    if stripped.replace(" ", "") == ">1000":
        return PRINTED_CAP
    try:
        value = float(stripped)
    except ValueError:
        raise UserError(f"{where}: expected a number or '>1000', found '{stripped}'") from None
    if not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number or '>1000', found '{stripped}'")
    return value
