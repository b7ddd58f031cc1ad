"""Evaluations of a benchmark written by hand, as the stage leaves them beside a trial, for tests of the report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task
from icu_ray.evaluation.benchmarks.tasks import SAID, metric_names
from icu_ray.evaluation.stage.results import store_evaluation, write_documents
from icu_ray.evaluation.task import DocumentScore, Scores, TaskSource
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.store import Store
from icu_ray.storage.trial_files import TrialPaths, read_spec, write_evaluation

Rows = Mapping[str, Sequence[DocumentScore]]
"""By task."""


def means(rows: Rows) -> dict[str, float]:
    """What the evaluation would say of these documents: each metric by its full name."""
    found = {}
    for task, documents in rows.items():
        benchmark = benchmark_of_task(task)
        assert benchmark is not None
        asked = BENCHMARKS[benchmark].sets[task.removesuffix(SAID).removeprefix(f"{benchmark}_")]
        for column, name in metric_names(asked).items():
            values = [each.metrics[column] for each in documents if column in each.metrics]
            if values:
                found[f"{benchmark}/{name}"] = fmean(values)
    return found


def evaluate_by_hand(
    folder: Path, trial_id: str, before: Rows, after: Rows, more: Mapping[str, float] | None = None
) -> TrialEvaluation:
    """Write evaluation.json and documents.parquet of a trial of a sweep's folder. more: metrics besides the means."""
    paths = TrialPaths.of(str(folder.parent), folder.name, trial_id)
    spec = read_spec(paths)
    assert spec is not None
    store = Store(str(folder.parent / "store"))
    found = []
    for model, rows in ((spec.model, before), (spec.name, after)):
        for task, documents in rows.items():
            source = TaskSource(task, {"task": task}, _never)
            digest = hashlib.sha256(repr(documents).encode()).hexdigest()
            found.append(store_evaluation(store, model, digest, "float32", source, Scores({}, tuple(documents))))
    place = Path(paths.documents)
    write_documents(found, place)
    evaluation = TrialEvaluation(
        dict.fromkeys(after, "t" * 64),
        ("", ""),
        means(before),
        {**means(after), **(more or {})},
        {},
        hashlib.sha256(place.read_bytes()).hexdigest(),
    )
    write_evaluation(paths, evaluation)
    return evaluation


def _never() -> Any:
    raise AssertionError("what is stored is not asked again")
