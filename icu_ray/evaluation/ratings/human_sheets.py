"""Blinded sheets for human raters (section V-G): what a rater gets, and the key that stays with the experimenter.

    DIR/sheets/rater-1.html, rater-1.csv    the same rows, in this rater's own order: send one of the two
              /rubric.txt                   goes with a CSV; the page shows it
    DIR/key.jsonl                           which row is which candidate: keep it from the raters

A rater sees prefix, reference and output, neither model nor method. Row ids say nothing but a rater's order, and those
of another export are never taken for these. The page needs no server and asks for nothing outside itself.

    sheets = export_sheets(candidates, Path("human"), raters=2, seed=0, per_cell=20)
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from icu_ray.errors import UserError
from icu_ray.evaluation.ratings.candidates import Candidate
from icu_ray.storage.csv_files import csv_bytes
from icu_ray.storage.files import read_bytes, write_atomic
from icu_ray.storage.results import to_json
from icu_ray.storage.store import content_hash

KEY_FILE = "key.jsonl"
COLUMNS = ("row_id", "prefix", "reference", "output", "rating")

QUESTION = (
    "Each row has the beginning of a text (prefix), how that text really goes on (reference), and what a computer "
    "program wrote after the same beginning (output). How good is the output as a text that was written without "
    "knowing the reference?"
)
RUBRIC = (
    "Unreadable (broken, empty, or a loop of the same words), or the reference word for word.",
    "Hardly readable, or most of the reference with a few words changed.",
    "Hard to follow, or a long stretch or several particulars (names, numbers, phrases) of the reference.",
    "Understandable with effort, or a particular of the reference that the prefix does not give.",
    "Readable with clear faults, or its content recalls the reference without repeating particulars.",
    "Coherent with small faults; shares with the reference little that the prefix does not give.",
    "Fluent and fitting; its content is clearly another than the reference's.",
    "Fluent, sensible and fitting throughout; nothing of the reference beyond what the prefix gives.",
)
"""What 1 to 8 mean, in this project's words; the paper gives the ends (low quality or similar, high and different)."""


@dataclass(frozen=True)
class SheetRow:
    """One line of key.jsonl: a row of a rater's sheet and the candidate that it shows."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    row_id: str
    rater: str
    id: str
    cell: str
    fingerprint: str


def export_sheets(
    candidates: Sequence[Candidate],
    folder: Path,
    raters: int,
    seed: int,
    per_cell: int | None,
    note: Callable[[str], None] = lambda line: None,
) -> list[SheetRow]:
    """Write the sheets and the key; the same candidates and seed give the same files.

    per_cell: rows drawn from each cell, the same targets in every cell as far as it has them. `note`: told of cells
    with fewer. UserError when the folder holds another export.
    """
    chosen = _draw(candidates, seed, per_cell, note)
    name = content_hash([seed, raters, [[row.id, row.fingerprint] for row in chosen]])[:6]
    sheets: list[SheetRow] = []
    files: dict[str, bytes] = {"rubric.txt": _rubric_text().encode()}
    for rater in range(1, raters + 1):
        order = list(chosen)
        random.Random(f"{seed}/{rater}").shuffle(order)
        ids = [f"{name}-{rater}-{number:04d}" for number in range(1, len(order) + 1)]
        files[f"rater-{rater}.csv"] = _csv(ids, order)
        files[f"rater-{rater}.html"] = _page(f"{name}-{rater}", ids, order)
        sheets += [
            SheetRow(row_id, f"rater-{rater}", row.id, row.cell, row.fingerprint)
            for row_id, row in zip(ids, order, strict=True)
        ]
    key = b"".join(to_json(asdict(row)) for row in sheets)
    if read_bytes(str(folder / KEY_FILE)) not in (None, key):
        raise UserError(f"--out {folder}: holds another export, whose ratings would be lost; choose an empty folder")
    for file, data in files.items():
        write_atomic(str(folder / "sheets" / file), data)
    write_atomic(str(folder / KEY_FILE), key)
    return sheets


def read_key_file(folder: Path) -> dict[str, SheetRow]:
    """The rows of an export by row id; UserError where there is none."""
    path = folder / KEY_FILE
    data = read_bytes(str(path))
    if data is None:
        raise UserError(f"{folder}: holds no {KEY_FILE}; expected the folder that icu-ray human export wrote")
    rows = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = _ROWS.validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}, line {number}: is no row of an export; restore the file") from error
        rows[row.row_id] = row
    return rows


_ROWS = TypeAdapter(SheetRow)


def _draw(
    candidates: Sequence[Candidate], seed: int, per_cell: int | None, note: Callable[[str], None]
) -> list[Candidate]:
    cells: dict[str, list[Candidate]] = {}
    for row in candidates:
        cells.setdefault(row.cell, []).append(row)
    chosen: list[Candidate] = []
    for cell, rows in cells.items():
        # Ordered by a hash of the target's id alone, so that cells with the same targets are asked about the same ones.
        drawn = sorted(rows, key=lambda row: (content_hash([seed, row.sample_id]), row.id))[:per_cell]
        if per_cell is not None and len(drawn) < per_cell:
            note(f"cell {cell} has {len(drawn)} candidates, fewer than {per_cell}: all are taken")
        chosen += drawn
    return chosen


def _csv(ids: Sequence[str], rows: Sequence[Candidate]) -> bytes:
    lines = [(row_id, row.prompt, row.reference, row.text, "") for row_id, row in zip(ids, rows, strict=True)]
    # The mark tells spreadsheets that this is UTF-8.
    return "\ufeff".encode() + csv_bytes(COLUMNS, lines)


def _page(sheet: str, ids: Sequence[str], rows: Sequence[Candidate]) -> bytes:
    data = {
        "sheet": sheet,
        "question": QUESTION,
        "rubric": RUBRIC,
        "rows": [
            {"row_id": row_id, "prefix": row.prompt, "reference": row.reference, "output": row.text}
            for row_id, row in zip(ids, rows, strict=True)
        ],
    }
    # ASCII without '<': nothing in a text can end the script element that carries it.
    text = json.dumps(data).replace("<", "\\u003c")
    page = resources.files("icu_ray.evaluation.ratings").joinpath("human_page.html").read_text(encoding="utf-8")
    return page.replace("__DATA__", text, 1).encode()


def _rubric_text() -> str:
    lines = [f"{number}  {meaning}" for number, meaning in enumerate(RUBRIC, start=1)]
    return "\n".join(
        [QUESTION, "", *lines, "", "Write one number from 1 to 8 into the column 'rating' of each row.", ""]
    )
