"""Reading a local mirror of the evaluation data, row by row, with the row's number in every refusal.

    <mirror>/lm_eval/<task>_<split>.jsonl     rows of the task's Hugging Face dataset, one JSON object a line
    <mirror>/lm_eval/<task>.jsonl             the same, of the split in BARE_SPLIT, else of 'validation'
    <mirror>/validation/<file>                the authors' own files: dialogues, Pile, WikiText, LAMBADA, PubMedQA

`icu-ray data mirror --out DIR` writes such a folder. Nothing here needs a network, torch or lm-eval.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError

BARE_SPLIT: Mapping[str, str] = {"lambada_openai": "test", "pubmedqa": "test"}
ROWS_FOLDER, AUTHORS_FOLDER = "lm_eval", "validation"
_HOW = "write the mirror with 'icu-ray data mirror --out DIR'"

Row = dict[str, Any]


def rows_file(mirror: Path, task: str, split: str) -> Path:
    """The file of a task's split; UserError that says which splits are there."""
    folder = mirror / ROWS_FOLDER
    exact, bare = folder / f"{task}_{split}.jsonl", folder / f"{task}.jsonl"
    if exact.is_file():
        return exact
    if bare.is_file() and BARE_SPLIT.get(task, "validation") == split:
        return bare
    found = sorted(path.name for path in folder.glob(f"{task}.jsonl")) + sorted(
        path.name for path in folder.glob(f"{task}_*.jsonl")
    )
    there = f"there is only {', '.join(found)}" if found else "there is no file of this task"
    raise UserError(f"mirror {mirror}: task {task} reads split '{split}' from {exact}, but {there}; {_HOW}")


def authors_file(mirror: Path, name: str) -> Path:
    """One of the authors' files below the mirror, by its path there."""
    path = mirror / name
    if not path.is_file():
        raise UserError(f"mirror {mirror}: no {name}; {_HOW}")
    return path


def read_jsonl(path: Path) -> list[Row]:
    """All rows; UserError for a line that is no object, lacks a column of row 1, or has a value of another kind."""
    rows: list[Row] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: row {number}: no JSON ({error}); expected one object a line") from error
        if not isinstance(row, dict) or not row:
            raise UserError(f"{path}: row {number}: expected a JSON object with columns, found {line[:60]}")
        if rows:
            _same_shape(path, number, rows[0], row)
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows


def _same_shape(path: Path, number: int, first: Row, row: Row) -> None:
    if row.keys() != first.keys():
        missing, more = sorted(first.keys() - row.keys()), sorted(row.keys() - first.keys())
        what = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has also {', '.join(more)}"] * bool(more)
        raise UserError(f"{path}: row {number}: {' and '.join(what)}; expected the columns of row 1")
    for column, value in row.items():
        if _kind(value) not in (_kind(first[column]), "null") and first[column] is not None:
            raise UserError(
                f"{path}: row {number}: {column} is a {_kind(value)}, expected a {_kind(first[column])} as in row 1"
            )


def _kind(value: Any) -> str:
    kinds = {type(None): "null", bool: "truth value", int: "number", float: "number", str: "text", list: "list"}
    return kinds.get(type(value), "object")


def read_csv(path: Path, columns: Sequence[str]) -> list[Row]:
    """All rows as texts; UserError when a column is missing or a row has too few or empty values in these columns."""
    csv.field_size_limit(sys.maxsize)
    rows: list[Row] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: no column {', '.join(missing)}; found {', '.join(reader.fieldnames or ())}")
            for number, row in enumerate(reader, start=1):
                empty = [column for column in columns if not row[column]]
                if empty:
                    raise UserError(f"{path}: row {number}: {', '.join(empty)} is empty")
                rows.append({str(column): value for column, value in row.items()})
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: row {len(rows) + 1}: {error}") from error
    if not rows:
        raise UserError(f"{path}: holds no row")
    return rows


def read_dialogues(path: Path) -> list[list[str]]:
    """Turns of every dialogue of {"text": {"0": [turn, ...], ...}}, in the file's order; each has at least two."""
    try:
        table = json.loads(_text(path))["text"]
        items = list(table.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f'{path}: expected {{"text": {{"0": [turn, ...], ...}}}}: {error!r}') from error
    for number, turns in items:
        if not isinstance(turns, list) or len(turns) < 2 or not all(isinstance(turn, str) for turn in turns):
            raise UserError(f"{path}: row {number}: expected a list of at least two texts, found {str(turns)[:60]}")
        if not turns[-1].strip():
            raise UserError(f"{path}: row {number}: its last turn, which is the one to be generated, is empty")
    if not items:
        raise UserError(f"{path}: holds no dialogue")
    return [turns for _, turns in items]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8") from error
