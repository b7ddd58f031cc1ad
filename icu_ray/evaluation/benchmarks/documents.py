"""The documents of finished evaluations, read again for numbers that need several of them.

with_derived(metrics, {"tofu_forget": Path("documents.parquet"), ...})       # with tofu/model_utility
documents = trial_documents(data, "npo-1b-s0-a1.0")                           # of a trial's documents.parquet
said = said_documents(data)["npo-1b-s0-a1.0"]["tofu_forget_said"][0].said     # texts too
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.derived import Documents, of_model
from icu_ray.evaluation.task import DocumentScore
from icu_ray.metrics.answers import Floats, as_floats

_NO_METRICS = ("model", "task", "document", "prompt", "target", "said", "loglikelihoods")


def benchmark_of_task(task: str) -> str | None:
    """The benchmark that a task's name begins with."""
    return next((name for name in BENCHMARKS if task.startswith(f"{name}_")), None)


def said_documents(data: bytes) -> dict[str, dict[str, dict[int, DocumentScore]]]:
    """By model, task and number, the documents of a trial's documents.parquet; of tasks of benchmarks alone.

    ValueError (pyarrow's) where the data is no such file.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    tasks = [task for task in pc.unique(table["task"]).to_pylist() if benchmark_of_task(task) is not None]
    found: dict[str, dict[str, dict[int, DocumentScore]]] = {}
    for row in table.filter(pc.is_in(table["task"], pyarrow.array(tasks, pyarrow.string()))).to_pylist():
        metrics = {key: value for key, value in row.items() if key not in _NO_METRICS and value is not None}
        document = DocumentScore(
            row["document"],
            row["target"],
            row["said"],
            tuple(row["loglikelihoods"]),
            metrics,
            row.get("prompt") or "",
        )
        found.setdefault(row["model"], {}).setdefault(row["task"], {})[document.document] = document
    return found


def with_derived(metrics: Mapping[str, float], tables: Mapping[str, Path]) -> dict[str, float | None]:
    """One model's metrics, and what a benchmark's sets say together. tables: the documents' file of each task."""
    own: dict[str, dict[str, Path]] = {}
    for task, path in tables.items():
        if (benchmark := benchmark_of_task(task)) is not None:
            own.setdefault(benchmark, {})[task] = path
    found: dict[str, float | None] = dict(metrics)
    for benchmark, paths in own.items():
        found |= of_model(benchmark, metrics, table_documents(paths))
    return found


def table_documents(tables: Mapping[str, Path]) -> Documents:
    """By task, one model's documents. tables: the documents' file of each task, as the store has it."""
    import pyarrow.parquet

    return {task: _columns(pyarrow.parquet.read_table(path)) for task, path in tables.items()}


def trial_documents(data: bytes, model: str) -> Documents:
    """By task, one model's documents in a trial's documents.parquet; of tasks of benchmarks alone."""
    import pyarrow.compute as pc
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    table = table.filter(pc.equal(table["model"], model))
    tasks = [task for task in pc.unique(table["task"]).to_pylist() if benchmark_of_task(task) is not None]
    return {task: _columns(table.filter(pc.equal(table["task"], task))) for task in tasks}


def _columns(table: object) -> dict[str, Floats]:
    """The metrics of a table, in the documents' order."""
    ordered = table.sort_by("document")  # type: ignore[attr-defined]
    names = [name for name in ordered.column_names if name not in _NO_METRICS]
    columns = {name: as_floats(ordered[name].to_pylist()) for name in names}
    return {name: values for name, values in columns.items() if not np.isnan(values).all()}
