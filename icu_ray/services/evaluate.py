"""Models through suites: what stands behind `icu-ray evaluate`.

    results = evaluate(["gpt2-folder"], tasks_of(["icu"], []), Options(mirror=Path("mirror")), storage="./runs")

Whatever can be refused is refused before a Ray is started, and none is when the store has all of it already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.evaluation.stage.results import Evaluation
from icu_ray.evaluation.suites import Options, open_tasks, with_means
from icu_ray.services.asked_models import quietly_connected, subjects_of
from icu_ray.storage.files import check_writable, join, local_path
from icu_ray.storage.store import Store


def evaluate(
    models: Sequence[str],
    tasks: Sequence[str],
    options: Options,
    *,
    storage: str = "./runs",
    precision: str = "fp32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> list[Evaluation]:
    """Every task of every model (hub id or folder), from <storage>/store where it is there."""
    if options.mirror is not None and not options.mirror.is_dir():
        raise UserError(f"--mirror {options.mirror}: no such folder; write one with 'icu-ray data mirror --out DIR'")
    check_writable(storage)
    folder = local_path(storage)
    store = Store(join(storage if folder is None else str(folder.resolve()), "store"))
    log = (Path(tempfile.gettempdir()) if folder is None else folder.resolve()) / "evaluate.log"
    sources = open_tasks(tasks, options)

    from icu_ray.evaluation.stage.run import evaluate_models

    subjects = subjects_of(models, precision, revision, trust_remote_code)
    return evaluate_models(subjects, sources, store, ray=lambda: quietly_connected(log))


def evaluations_json(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """One object a model: its metrics with the suites' means, documents and parquet file by task, errors by task."""
    found: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        found.setdefault(each.model, []).append(each)
    return [
        {
            "model": model,
            "metrics": with_means({name: value for each in some for name, value in each.metrics.items()}),
            "documents": {each.task: each.documents for each in some},
            "tables": {each.task: str(each.table) for each in some if each.table is not None},
            "errors": {each.task: each.error for each in some if each.error},
        }
        for model, some in found.items()
    ]
