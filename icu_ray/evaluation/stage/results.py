"""Finished evaluations in the store: metrics of a task of a model, and its documents as parquet.

evaluation = find_evaluation(store, "before", model_hash, "float32", source)      # None: not evaluated yet
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.evaluation.model_requests import VERSION
from icu_ray.evaluation.task import Scores, TaskSource
from icu_ray.storage.store import JsonValue, Store

if TYPE_CHECKING:
    import pyarrow as pa

_METRICS, DOCUMENTS = "metrics.json", "documents.parquet"
_KIND = "evaluations"


@dataclass(frozen=True)
class Evaluation:
    """metrics: by full name. documents: how many. table: parquet of them; None with an error, the reason."""

    model: str
    task: str
    metrics: Mapping[str, float]
    documents: int
    table: Path | None
    error: str = ""


def _key(model_hash: str, precision: str, source: TaskSource) -> dict[str, JsonValue]:
    return {"version": VERSION, "model": model_hash, "precision": precision, "task": source.identity}


def find_evaluation(store: Store, model: str, model_hash: str, precision: str, source: TaskSource) -> Evaluation | None:
    """What an earlier run found; `model` is the name it is to have here."""
    folder = store.find(_KIND, _key(model_hash, precision, source))
    return None if folder is None else _read(folder, model, source.name)


def store_evaluation(
    store: Store, model: str, model_hash: str, precision: str, source: TaskSource, scores: Scores
) -> Evaluation:
    """Keep a task's scores."""
    import pyarrow.parquet

    def make(folder: Path) -> None:
        content = {"metrics": dict(scores.metrics), "documents": len(scores.documents)}
        (folder / _METRICS).write_text(json.dumps(content), encoding="ascii")
        pyarrow.parquet.write_table(_table(source.name, scores), folder / DOCUMENTS)

    return _read(store.get_or_make(_KIND, _key(model_hash, precision, source), make), model, source.name)


def _read(folder: Path, model: str, task: str) -> Evaluation:
    content = json.loads((folder / _METRICS).read_text(encoding="ascii"))
    return Evaluation(model, task, content["metrics"], content["documents"], folder / DOCUMENTS)


def _table(task: str, scores: Scores) -> pa.Table:
    """One row a document: task, document, prompt, target, said, loglikelihoods, and a column for each metric."""
    import pyarrow as pa

    rows = scores.documents
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    columns: dict[str, Any] = {
        "task": pa.array([task] * len(rows), pa.string()),
        "document": pa.array([row.document for row in rows], pa.int64()),
        "prompt": pa.array([_utf8(row.prompt) for row in rows], pa.string()),
        "target": pa.array([_utf8(row.target) for row in rows], pa.string()),
        "said": pa.array([_utf8(row.said) for row in rows], pa.string()),
        "loglikelihoods": pa.array([list(row.loglikelihoods) for row in rows], pa.list_(pa.float64())),
    }
    columns |= {name: pa.array([row.metrics.get(name) for row in rows], pa.float64()) for name in names}
    return pa.table(columns)


def _utf8(text: str) -> str:
    """Half of a surrogate pair, which a broken tokenizer may emit, has no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def write_documents(evaluations: Sequence[Evaluation], path: Path) -> None:
    """All documents of several evaluations in one parquet file, with the model's name."""
    import pyarrow as pa
    import pyarrow.parquet

    tables = []
    for each in evaluations:
        if each.table is not None:
            table = pyarrow.parquet.read_table(each.table)
            tables.append(table.add_column(0, "model", pa.array([each.model] * table.num_rows, pa.string())))
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.concat_tables(tables, promote_options="default"), path)
