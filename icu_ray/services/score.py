"""A results table read from a CSV: what stands behind `icu-ray score`.

scores = normalised_scores(read_score_table(Path("table.csv")))
"""

from __future__ import annotations

import math
from pathlib import Path

from icu_ray.data.table_files import csv_lines
from icu_ray.errors import UserError, did_you_mean
from icu_ray.metrics.scores import COLUMNS, PRINTED_CAP, MethodRow


def read_score_table(path: Path) -> list[MethodRow]:
    """Rows of a CSV with the columns row,el10,ma,bert,entropy,cls,dia,ppl_pile,ppl_wikitext,gpt ('>1000' allowed).

    UserError for anything else: a score compares rows, so there are at least two, each with a name of its own.
    """
    try:
        lines = [(number, cells) for number, cells, _ in csv_lines(path, ("row", *COLUMNS), "score")]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected a CSV with the columns row,{','.join(COLUMNS)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as CSV: {error}") from error
    header = [name.strip() for name in lines[0][1]] if lines else []
    for name in ("row", *COLUMNS):
        if name not in header:
            raise UserError(
                f"{path}: column '{name}' is missing{did_you_mean(name, header)}; found {', '.join(header)}"
            )
        if header.count(name) > 1:
            raise UserError(f"{path}: column '{name}' appears twice")
    rows: list[MethodRow] = []
    named: dict[str, int] = {}
    for number, line in lines[1:]:
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise UserError(f"{path}, line {number}: expected {len(header)} cells, found {len(line)}")
        cells = dict(zip(header, line, strict=True))
        name = cells["row"].strip()
        if name in named:
            raise UserError(f"{path}, line {number}: row '{name}' appears twice, first in line {named[name]}")
        named[name] = number
        rows.append(MethodRow(name, tuple(_number(cells[c], c, name, path, number) for c in COLUMNS)))
    if not rows:
        raise UserError(f"{path}: holds no rows")
    if len(rows) == 1:
        raise UserError(
            f"{path}: holds one row, '{rows[0].name}'; a score compares the rows of a table, expected at least two"
        )
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
