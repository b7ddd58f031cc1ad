"""OpenUnlearning's evaluation files (TOFU_EVAL.json, MUSE_EVAL.json): a trial written as one, and one read.

    to_open_unlearning(trial)         # {"forget_Q_A_Prob": {"agg_value": 0.2, "value_by_index": {"0": {"prob": ...}}}}
    from_open_unlearning(data, "TOFU_EVAL.json")["forget_Q_A_Prob"].aggregate

Read as well: TOFU_SUMMARY.json and its like, {"forget_Q_A_Prob": 0.2}. NaN, which Python writes into such files, and
the texts 'nan' and 'inf' are no number and become None.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, NoReturn

from icu_ray.errors import UserError
from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.field_names import SOURCES, measured
from icu_ray.report.numbers.field_rows import FieldRow, field_rows
from icu_ray.report.numbers.trial_documents import TaskDocuments
from icu_ray.storage.imported import ImportedMetric, RowValue
from icu_ray.storage.results import to_json

AGGREGATE, ROWS = "agg_value", "value_by_index"
_EXPECTED = (
    f'expected for each metric a number, or an object with "{AGGREGATE}" (a number) or "{ROWS}" (an object of rows), '
    "as in OpenUnlearning's TOFU_EVAL.json and MUSE_EVAL.json"
)
_ROWS_OF = {"forget_truth_ratio": "forget_Truth_Ratio"}
"""Metrics whose rows stand under another name of ours."""
_SIDES = ("forget", "holdout")
_DEEPEST = 4
"""Levels of parts within a metric; real files have one ('forget' and 'holdout' of membership inference)."""


def to_open_unlearning(trial: ReportedTrial, documents: TaskDocuments | None = None) -> bytes | None:
    """The unlearned model's metrics that have an equivalent there, sorted by name; None where none has.

    documents: of the trial's unlearned model, in which the values of single rows lie.
    """
    found = {name: measure for name in sorted(SOURCES) if (measure := measured(trial, name)) is not None}
    if not found:
        return None
    known = field_rows(documents or {})
    written: dict[str, dict[str, Any]] = {}
    for name, measure in found.items():
        written[name] = {AGGREGATE: measure.aggregate}
        if rows := measure.rows or known.get(_ROWS_OF.get(name, name), {}):
            written[name][ROWS] = _by_index(rows)
        written[name] |= {side: part for side in _SIDES if (part := _part(known.get(f"{name}/{side}", {})))}
    return to_json(written, indent=4)


def _part(rows: Mapping[int, FieldRow]) -> dict[str, Any]:
    """The members of membership inference, or the others."""
    values = [value for row in rows.values() if isinstance(value := row["score"], float)]
    return {AGGREGATE: fmean(values), ROWS: _by_index(rows)} if values else {}


def _by_index(rows: Mapping[int, FieldRow]) -> dict[str, FieldRow]:
    return {str(number): rows[number] for number in sorted(rows)}


def from_open_unlearning(data: bytes, where: str) -> dict[str, ImportedMetric]:
    """The metrics of a file by name, the parts of one under 'metric/part'; texts of rows are left out.

    where: what a refusal begins with. UserError for what is no such file: what was found where, and what was expected.
    """
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        said = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where}: is no JSON ({said}); {_EXPECTED}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{where}: found {_called(tree)}; {_EXPECTED}")
    metrics = {name: metric for key, value in tree.items() for name, metric in _metrics(key, value, where, 0)}
    if not metrics:
        raise UserError(f"{where}: holds no metric; {_EXPECTED}")
    return metrics


def _metrics(name: str, value: Any, where: str, level: int) -> Iterator[tuple[str, ImportedMetric]]:
    if _is_number(value):
        yield name, ImportedMetric(_number(value, name, where))
        return
    if not isinstance(value, dict) or not {AGGREGATE, ROWS} & set(value) or level > _DEEPEST:
        raise UserError(f"{where}: {_quoted(name)}: found {_called(value)}; {_EXPECTED}")
    aggregate = value.get(AGGREGATE)
    if not _is_number(aggregate):
        _refuse(where, name, AGGREGATE, aggregate, "a number")
    by_index = value.get(ROWS)
    if not isinstance(by_index, dict | None):
        _refuse(where, name, ROWS, by_index, 'an object of rows by index, {"0": {"score": 0.5}}')
    rows = {index: _row(row, f"{name}.{ROWS}.{index}", where) for index, row in (by_index or {}).items()}
    yield name, ImportedMetric(_number(aggregate, name, where), rows)
    for part, inner in value.items():
        if part not in (AGGREGATE, ROWS):
            yield from _metrics(f"{name}/{part}", inner, where, level + 1)


def _row(row: Any, name: str, where: str) -> dict[str, RowValue]:
    """The numbers of a row; what was asked and said stands beside them in such files, and is left out."""
    if row is None:
        return {}
    if not isinstance(row, dict):
        raise UserError(f"{where}: {_quoted(name)}: found {_called(row)}; expected an object, such as {{'score': 0.5}}")
    found: dict[str, RowValue] = {}
    for quantity, value in row.items():
        if _is_number(value):
            found[quantity] = _number(value, name, where)
        elif isinstance(value, list) and all(map(_is_number, value)):
            found[quantity] = tuple(_number(each, name, where) for each in value)
        elif not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(x, str) for x in value)):
            _refuse(where, name, quantity, value, "a number or text")
    return found


def _is_number(value: Any) -> bool:
    """Also null, and a text that stands for no number."""
    if isinstance(value, str):
        return value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity")
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None or isinstance(value, str):
        return None
    try:
        number = float(value)
    except OverflowError as error:
        raise UserError(f"{where}: {_quoted(name)}: found a whole number of more than 300 digits") from error
    return number if math.isfinite(number) else None


def _refuse(where: str, name: str, key: str, value: Any, expected: str) -> NoReturn:
    raise UserError(f"{where}: {_quoted(f'{name}.{key}')}: found {_called(value)}; expected {expected}")


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 120 else name[:117] + "...")


def _called(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Mapping):
        keys = ", ".join(_quoted(str(key)) for key in list(value)[:3])
        more = ", ..." if len(value) > 3 else ""
        return f"an object with {keys}{more}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return f"the text {_quoted(value)}"
    constants = {None: "null", True: "true", False: "false"}
    return constants[value] if value is None or isinstance(value, bool) else f"the number {value}"
