"""Models through suites: what stands behind `icu-ray evaluate`.

    results = evaluate(["gpt2-folder"], tasks_of(["icu"], []), Options(mirror=Path("mirror")), storage="./runs")

Whatever can be refused is refused before a Ray is started, and none is when the store has all of it already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icu_ray.config import ModelConfig, RecordsData
from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.data.hub_data import is_hub_data, parsed, pinned
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.documents import with_derived
from icu_ray.evaluation.benchmarks.rows import split_of
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked
from icu_ray.evaluation.groups import Group
from icu_ray.evaluation.kinds.dialogue import Keep
from icu_ray.evaluation.stage.results import Evaluation
from icu_ray.evaluation.suites import Options, open_tasks, with_means
from icu_ray.evaluation.sweep_tasks import benchmark_of_config
from icu_ray.services.asked_models import described, quietly_connected, subjects_of
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
        raise UserError(f"mirror {options.mirror}: no such folder; write one with 'icu-ray data mirror --out DIR'")
    check_writable(storage)
    folder = local_path(storage)
    store = Store(join(storage if folder is None else str(folder.resolve()), "store"))
    log = (Path(tempfile.gettempdir()) if folder is None else folder.resolve()) / "evaluate.log"
    sources = open_tasks(tasks, options)

    from icu_ray.evaluation.stage.run import evaluate_models
    from icu_ray.models.checking import check_models

    asked = described(models, revision, trust_remote_code)
    check_models(asked)
    if options.benchmark is not None:
        from icu_ray.plan.benchmark_prompts import check_model

        for each in asked:
            check_model(options.benchmark, each, options.limit)
    subjects = subjects_of(asked, precision)
    return evaluate_models(subjects, sources, store, ray=lambda: quietly_connected(log))


@dataclass(frozen=True)
class ConfigAsked:
    """What a config has its models asked. limit, mirror, keep: of its section `evaluation`. models: its own, for the
    precision that each is asked in."""

    benchmark: BenchmarkAsked
    limit: int | None
    mirror: Path | None
    keep: Keep
    models: tuple[ModelConfig, ...]

    def precision(self, asked: Sequence[str]) -> str:
        """Of models (hub id or folder): that of the config's model of this source, else of all of the config's.

        UserError where that is not one for all.
        """
        own = {model.source: model.precision for model in self.models}
        every = set(own.values())
        found = set().union(*({own[each]} if each in own else every for each in asked))
        if len(found) > 1:
            raise UserError(
                f"--config: its models have precision {' and '.join(sorted(found))}; give --precision for "
                f"{', '.join(asked)}"
            )
        return found.pop() if found else "fp32"


def asked_of(name: str, overrides: Sequence[str] = ()) -> ConfigAsked:
    """What the benchmark asks that a config's data belong to, as the config has it asked; UserError for other data.

    name: of a shipped config, or a file. overrides: such as data.folder=FOLDER. Of the hub's data sets only one whose
    rows are asked is looked at.
    """
    config = load_config(find_config(name), overrides)
    found = benchmark_of_config(config)
    if found is None:
        raise UserError(
            f"--config {name}: data.source={config.data.source} is no benchmark, so that suite benchmark asks nothing; "
            f"expected a config whose data.source is one of {', '.join(BENCHMARKS)}"
        )
    assert isinstance(config.data, RecordsData)
    forget = config.data.forget
    if is_hub_data(forget) and split_of(found.section).sets:
        commit = parsed(pinned(forget, "data.forget"), "data.forget").revision
        found = replace(found, section=found.section.model_copy(update={"revision": commit}))
    said = config.evaluation
    mirror = None if said.mirror is None else Path(said.mirror)
    return ConfigAsked(found, said.limit, mirror, said.dialogue_context, config.models)


def evaluations_json(evaluations: Sequence[Evaluation], groups: Sequence[Group] = ()) -> list[dict[str, Any]]:
    """One object a model: its metrics, documents and parquet file by task, errors by task.

    Among the metrics are the suites' means, those of the harness's groups that were asked for, and what a benchmark's
    sets say together.
    """
    found: dict[str, list[Evaluation]] = {}
    for each in evaluations:
        found.setdefault(each.model, []).append(each)
    return [
        {
            "model": model,
            "metrics": with_derived(
                with_means(
                    {name: value for each in some for name, value in each.metrics.items()},
                    groups,
                    {each.task: each.documents for each in some if not each.error},
                ),
                {each.task: each.table for each in some if each.table is not None},
            ),
            "documents": {each.task: each.documents for each in some},
            "tables": {each.task: str(each.table) for each in some if each.table is not None},
            "errors": {each.task: each.error for each in some if each.error},
        }
        for model, some in found.items()
    ]
