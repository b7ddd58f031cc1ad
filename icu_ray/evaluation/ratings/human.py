"""Ratings that come back from human raters: checked, kept, compared with each other and with the judge.

What any file of an import gets wrong is named with file, row and reason, and nothing of that import is taken; what was
imported before stays. Ratings s of 1..8 are rescaled to 10 (s - 1) / 7 as in the paper (section V-G). A row's rating is
the mean over its raters; cells are means over rows.

    import_ratings(Path("human"), [Path("rater-1.csv")])
    summary = summarise_ratings(Path("human"), verdicts)
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from icu_ray.errors import UserError, did_you_mean
from icu_ray.evaluation.ratings.human_sheets import COLUMNS, SheetRow, read_key_file
from icu_ray.evaluation.ratings.judge import Verdict
from icu_ray.metrics.agreement import krippendorff_alpha, pearson, spearman
from icu_ray.storage.files import read_bytes, write_atomic
from icu_ray.storage.results import to_json

RATINGS_FILE = "ratings.jsonl"
_SHOWN = 20
"""Problems of one import that are named."""


@dataclass(frozen=True)
class Rating:
    """One line of ratings.jsonl: a whole number from 1 to 8 for a row of a sheet."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    row_id: str
    rating: int


def rescale(rating: float) -> float:
    """A rating of 1..8 on the judge's scale of 0..10: 10 (s - 1) / (8 - 1)."""
    return 10.0 * (rating - 1.0) / 7.0


def import_ratings(folder: Path, files: Sequence[Path]) -> int:
    """Add the ratings of all files to those of the export in `folder`, or of none; how many are new.

    Rows that are not rated yet are passed over, and a row may come again with the rating it has. UserError naming
    every problem: a row that is unknown, twice, or was rated otherwise before, a rating out of 1..8, wrong columns,
    a file without ratings.
    """
    rows = read_key_file(folder)
    before = {rating.row_id: rating.rating for rating in _read_ratings(folder)}
    ratings = dict(before)
    problems: list[str] = []
    first: dict[str, str] = {}
    for file in files:
        found, wrong = _read_file(file)
        problems += wrong
        for row_id, text, where in found:
            if row_id not in rows:
                problems.append(f"{where}: row '{row_id}' is not in the export of {folder}")
            elif row_id in first:
                problems.append(f"{where}: row '{row_id}' appears twice, first in {first[row_id]}")
            elif not re.fullmatch("[1-8]", text):
                problems.append(f"{where}: row '{row_id}': rating '{text}', expected a whole number from 1 to 8")
            elif before.get(row_id, int(text)) != int(text):
                problems.append(
                    f"{where}: row '{row_id}': rating {text}, but {before[row_id]} was imported before; to replace it, "
                    f"remove its line from {folder / RATINGS_FILE}"
                )
            else:
                ratings[row_id] = int(text)
            first.setdefault(row_id, where)
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UserError("\n".join(["human import: nothing was imported", *problems[:_SHOWN], *more]))
    write_atomic(
        str(folder / RATINGS_FILE), b"".join(to_json(asdict(Rating(*item))) for item in sorted(ratings.items()))
    )
    return len(ratings) - len(before)


def _read_file(path: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(row id, rating as written, 'FILE, line 7') of the rated rows of a sheet, and what is wrong with the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        head = text.partition("\n")[0]
        # Spreadsheets of many countries save with semicolons.
        lines = list(_lines(text, ";" if ";" in head and "," not in head else ","))
    except FileNotFoundError:
        near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        return [], [f"{path}: no such file{did_you_mean(path.name, near)}"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path}: cannot be read as CSV: {error}"]
    header = [name.strip() for name in lines[0][1]] if lines else []
    missing = [name for name in ("row_id", "rating") if header.count(name) != 1]
    if missing or not set(header) <= set(COLUMNS):
        expected = f"row_id and rating once each, and no others than {', '.join(COLUMNS)}"
        return [], [f"{path}: columns {', '.join(header) or 'none'}; expected {expected}"]
    found, problems = [], []
    for number, cells in lines[1:]:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            problems.append(f"{where}: expected {len(header)} cells, found {len(cells)}")
            continue
        values = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        if values["rating"]:
            found.append((values["row_id"], values["rating"], where))
    if not found and not problems:
        problems.append(f"{path}: holds no ratings")
    return found, problems


def _lines(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Each record with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines, start = [], 1
    for cells in reader:
        lines.append((start, cells))
        start = reader.line_num + 1
    return lines


def _read_ratings(folder: Path) -> list[Rating]:
    path = folder / RATINGS_FILE
    ratings = []
    for number, line in enumerate((read_bytes(str(path)) or b"").splitlines(), start=1):
        try:
            ratings.append(_RATINGS.validate_json(line))
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: is no rating; remove the line and import it again") from error
    return ratings


_RATINGS = TypeAdapter(Rating)


def summarise_ratings(folder: Path, verdicts: Mapping[str, Verdict] | None) -> dict[str, Any]:
    """What the ratings of an export say; also summary.json in its folder. verdicts: the judge's, by candidate id.

    Correlations are over the rows (and cells) that both humans and the judge have rated. Their intervals are by
    Fisher's z and take pairs as independent, which rows that go on from one prefix are not quite.
    """
    rows = read_key_file(folder)
    by_item: dict[str, dict[str, int]] = {}
    for rating in _read_ratings(folder):
        row = rows.get(rating.row_id)
        if row is None:
            raise UserError(f"{folder / RATINGS_FILE}: row '{rating.row_id}' is not in the export; remove its line")
        by_item.setdefault(row.id, {})[row.rater] = rating.rating
    items = {row.id: row for row in rows.values()}
    human = {name: sum(given.values()) / len(given) for name, given in by_item.items()}
    summary = {
        "ratings": sum(map(len, by_item.values())),
        "rows": len(rows),
        "raters": [
            {
                "rater": rater,
                "rated": sum(rater in given for given in by_item.values()),
                "of": sum(row.rater == rater for row in rows.values()),
            }
            for rater in dict.fromkeys(row.rater for row in rows.values())
        ],
        "alpha_ordinal": krippendorff_alpha(list(by_item.values()), "ordinal"),
        "alpha_interval": krippendorff_alpha(list(by_item.values()), "interval"),
        "cells": _cell_means(items, human, None),
        "judge": None if verdicts is None else _against_judge(items, human, verdicts),
    }
    write_atomic(str(folder / "summary.json"), to_json(summary, indent=2))
    return summary


def _cell_means(
    items: Mapping[str, SheetRow], human: Mapping[str, float], judge: Mapping[str, int] | None
) -> list[dict[str, Any]]:
    cells: dict[str, list[str]] = {}
    for name in human:
        cells.setdefault(items[name].cell, []).append(name)
    means = []
    for cell, names in cells.items():
        rating = sum(human[name] for name in names) / len(names)
        line = {"cell": cell, "n": len(names), "rating": rating, "rescaled": rescale(rating)}
        means.append(line if judge is None else {**line, "judge": sum(judge[name] for name in names) / len(names)})
    return means


def _against_judge(
    items: Mapping[str, SheetRow], human: Mapping[str, float], verdicts: Mapping[str, Verdict]
) -> dict[str, Any]:
    judge: dict[str, int] = {}
    for name in human:
        verdict = verdicts.get(name)
        if verdict is None or verdict.score is None:
            continue
        if verdict.fingerprint != items[name].fingerprint:
            raise UserError(
                f"--judge: '{name}' was judged with other texts than the raters saw; judge the exported candidates"
            )
        judge[name] = verdict.score
    both = {name: human[name] for name in judge}
    if human and not both:
        raise UserError("--judge: has a score for none of the rated candidates; judge what was exported")
    means = _cell_means(items, both, judge)
    pairs = {
        "samples": ([rescale(both[name]) for name in judge], list(judge.values())),
        "cells": ([mean["rescaled"] for mean in means], [mean["judge"] for mean in means]),
    }
    return {
        "cell_means": means,
        **{
            level: {"pearson": asdict(pearson(x, y)), "spearman": asdict(spearman(x, y))}
            for level, (x, y) in pairs.items()
        },
        "interval": "95 %, Fisher's z",
    }
