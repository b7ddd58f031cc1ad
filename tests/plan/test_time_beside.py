"""What a plan says of the time beside its trials: fine-tuning, evaluation, and what is not estimated.

Needs: ../shared for one of its tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.evaluation.benchmarks.tasks import benchmark_task, task_names
from icu_ray.evaluation.sweep_tasks import benchmark_asked
from icu_ray.plan.estimates import training_minutes
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.time_beside import EvaluationTime, _counted, evaluation_said, evaluation_times, trainings
from icu_ray.report.terminal.plan_table import beside_said, plan_json
from tests.support.benchmark_case import tofu_folder
from tests.support.measures_case import Oracle

MODEL = {"name": "a", "source": "some/model-1B", "minutes_per_epoch": 1.0}


def plan(folder: Path, **told: Any) -> Plan:
    tree = {
        "name": "t",
        "data": {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(folder)},
        "models": [MODEL],
        "methods": [{"name": "graddiff"}, {"name": "kumpr"}],
        "pairs": {"by": "random"},
        "columns": {"length": 128, "prefix_start": 0, "suffix_start": 64},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        "evaluation": {"suites": ["benchmark"]},
        **told,
    }
    return plan_sweep(resolve_config(tree, "t"), dry_run=True)


def test_fine_tuning_has_hours_of_its_own(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path, rows=6)
    assert trainings(plan(folder)) == ()
    taught = {**MODEL, "train": {"epochs": 5}, "workers": 2, "batch_size": 4}
    (once,) = trainings(plan(folder, models=[taught]))
    minutes = training_minutes(once.model, plan(folder).config, 12)  # six to forget, six of the pool
    assert (once.times, once.minutes, once.gpu_hours) == (1, pytest.approx(minutes), pytest.approx(minutes / 30))
    made = plan(folder, models=[{**taught, "retrained": True}])
    (twice,) = trainings(made)
    assert twice.times == 2 and twice.gpu_hours == pytest.approx(2 * once.gpu_hours)
    told = json.loads(plan_json(made))["beside"]
    assert told["fine_tuning_gpu_hours"] == round(twice.gpu_hours, 3) and told["said"] == beside_said(made)
    assert beside_said(made)[0].startswith("Fine-tuning before the trials: 0.1 GPU hours more")
    (on_cpus,) = trainings(plan(folder, models=[{**taught, "gpus_per_worker": 0}]))
    assert on_cpus.gpu_hours == 0 and on_cpus.worker_minutes == pytest.approx(2 * on_cpus.minutes)


def test_an_evaluation_grows_with_models_rows_and_what_is_asked(tmp_path: Path) -> None:
    def minutes(folder: Path, **told: Any) -> float:
        (found,) = evaluation_times(plan(folder, **told))
        assert found.minutes is not None and found.untold == ()
        return found.minutes

    few, many = tofu_folder(tmp_path / "few", rows=6), tofu_folder(tmp_path / "many", rows=36)
    usual = minutes(many)
    assert minutes(few) < usual
    assert minutes(many, methods=[{"name": "kumpr"}]) == pytest.approx(usual * 2 / 3)  # and the original
    assert minutes(many, evaluation={"suites": ["benchmark"], "limit": 6}) == pytest.approx(minutes(few), rel=0.1)
    for more in ({"membership": ["gradnorm"]}, {"paraphrased_questions": True}):
        assert minutes(many, evaluation={"suites": ["benchmark"], **more}) > usual
    larger = {**MODEL, "source": "some/model-7B"}
    assert minutes(many, models=[larger]) > usual
    (on_cpus,) = evaluation_times(plan(many, models=[{**MODEL, "gpus_per_worker": 0}]))
    assert on_cpus.gpu_hours == 0 and on_cpus.worker_minutes > usual


def test_what_is_not_reckoned_is_named(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path)
    made = plan(folder, evaluation={"suites": ["benchmark", "icu"], "tasks": ["piqa"]})
    (found,) = evaluation_times(made)
    assert found.untold == ("suite icu", "piqa") and found.minutes is not None
    said = beside_said(made)
    assert "No time is estimated for: suite icu, piqa." in said
    assert said[-1] == "The start of Ray, preparation and the report take extra time."
    alone = EvaluationTime(found.model, 3, None, ("suite quick",))
    assert evaluation_said([alone]) == ["No time is estimated for: suite quick."]
    assert evaluation_times(plan(folder, evaluation={})) == ()
    limited = plan(folder, resources={"max_hours": 3}, audit={"attacks": ["quantise"]})
    assert "The budget counts only the trials." in beside_said(limited)
    assert "preparation, the audit and the report" in beside_said(limited)[-1]
    standins = plan(folder, models=[{"name": "s", "standin": {}}])
    assert "with the training of stand-ins" in beside_said(standins)[-1]


def test_tokens_are_counted_about_right(oracle: Oracle, shared: Path) -> None:
    files = shared / "data" / "tofu"
    if not files.is_dir():
        pytest.skip(f"{files} is not there")
    asked = benchmark_asked(plan(files).config)
    assert asked is not None
    counted, unread = _counted(asked, 40)
    assert not unread and len(counted) == len(task_names(asked))
    for name, each in zip(task_names(asked), counted, strict=True):
        requests = benchmark_task(name, asked, 40).load().ask(oracle.tokenizer)
        assert each.tokens == pytest.approx(sum(len(r.tokens) for r in requests), rel=0.3), name
