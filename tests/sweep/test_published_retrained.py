"""A sweep whose retrained model was trained elsewhere: measured and evaluated as alone, and all others beside it.

Needs: a Ray of its own.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from icu_ray.config import TofuData
from icu_ray.config.file import load_config
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked, benchmark_task, task_names
from icu_ray.evaluation.model_requests import cut_slices
from icu_ray.evaluation.stage.answers import answer_slice
from icu_ray.evaluation.task import Scores
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.loading import load_model
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.results import TrialEvaluation, TrialResult
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, trial_ids
from tests.support.benchmark_case import tofu_folder
from tests.support.evaluation_case import save_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ROWS = 6


def config_of(folder: Path) -> dict[str, Any]:
    target = {"name": "m", "source": str(folder / "target"), "gpus_per_worker": 0}
    return {
        "name": "t",
        "data": {"source": "tofu", "split": "forget01", "folder": str(folder / "tofu"), "template": "question-answer"},
        "columns": {"length": 96, "prefix_start": 0, "suffix_start": 48},
        "models": [
            {**target, "retrained": str(folder / "published")},
            {**target, "name": "alone", "source": str(folder / "published"), "unlearn": False},
        ],
        "methods": [{"name": "kumpr"}],
        "stop": {"max_epochs": 1},
        "el": {"ngram": 2},
        "optim": {"lr": 1e-3},
        "pairs": {"encoder": "bundled"},
        "filter": {"encoder": "bundled", "encoder_layer": 1},
        "evaluation": {"suites": ["benchmark"]},
    }


def sweep(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "icu_ray.sweep", "c.yaml", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def found_in(folder: Path) -> dict[str, tuple[TrialPaths, TrialResult, TrialEvaluation | None]]:
    storage = str(folder / "runs")
    found = {}
    for trial_id in trial_ids(storage, "t"):
        paths = TrialPaths.of(storage, "t", trial_id)
        result = read_result(paths)
        assert result is not None
        found[result.name] = paths, result, read_evaluation(paths)
    return found


def asked_alone(folder: Path, model: Path) -> dict[str, Scores]:
    """All tasks, asked of a model in this process."""
    loaded, found = load_model(str(model)), {}
    section = TofuData(source="tofu", split="forget01", folder=str(folder / "tofu"), template="question-answer")
    asked = BenchmarkAsked(section, section.as_records().form)
    for name in task_names(asked):
        task = benchmark_task(name, asked).load()
        requests = task.ask(loaded.tokenizer)
        answers = [a for part in cut_slices(task.measure, requests, 8) for a in answer_slice(loaded, part)]
        found[name] = task.score(requests, answers)
    return found


def rows_of(scores: Scores, metric: str) -> list[float]:
    return [document.metrics.get(metric, math.nan) for document in scores.documents]


def test_a_folder_stands_in_the_place_of_the_retrained_model(tmp_path: Path) -> None:
    tofu_folder(tmp_path / "tofu", ROWS, later=True)
    save_model(tmp_path / "target", 0)
    save_model(tmp_path / "published", 1)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config_of(tmp_path)))
    said = sweep(tmp_path)
    found = found_in(tmp_path)
    assert set(found) == {"kumpr-m-s0", "retrained-m-s0", "original-alone-s0"}
    paths, result, evaluation = found["retrained-m-s0"]
    _, alone, _ = found["original-alone-s0"]
    assert (result.status, result.epochs, result.reason) == (
        "finished",
        0,
        "the gold standard: trained without the texts to forget",
    )
    # It is measured as it is by itself, and nothing of it is copied.
    assert result.after == alone.after and result.before == found["kumpr-m-s0"][1].before != result.after
    assert result.model_hash == folder_fingerprint(tmp_path / "published") == alone.model_hash
    assert not Path(paths.model).exists()
    # It is evaluated as it is by itself.
    here = {which: asked_alone(tmp_path, tmp_path / which) for which in ("target", "published")}
    expected = {name: value for scores in here["published"].values() for name, value in scores.metrics.items()}
    assert evaluation is not None and not evaluation.errors and len(expected) > 10
    assert {name: evaluation.after[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    # Forget quality and privleak of all are beside it, by plain code.
    ratios = {which: rows_of(scores["tofu_forget"], "truth_ratio_raw") for which, scores in here.items()}
    quality = stats.ks_2samp(ratios["target"], ratios["published"]).pvalue

    def area(scores: dict[str, Scores]) -> float:
        members, others = (np.array(rows_of(scores[f"tofu_{name}"], "mia_min_k")) for name in ("forget", "holdout"))
        above = (others[:, None] > members[None]) + 0.5 * (others[:, None] == members[None])
        return float(above.mean())

    own, reference = 1 - area(here["target"]), 1 - area(here["published"])
    for name in ("kumpr-m-s0", "retrained-m-s0"):
        other = found[name][2]
        assert other is not None
        assert other.before["tofu/forget_quality"] == pytest.approx(quality)
        assert other.before["tofu/privleak"] == pytest.approx(100 * (own - reference) / reference, rel=1e-4)
        assert other.after["tofu/forget_quality"] is not None and other.after["tofu/privleak"] is not None
    assert evaluation.after["tofu/forget_quality"] == 1.0 and evaluation.after["tofu/privleak"] == pytest.approx(0)
    # The model without a retrained one has none of these numbers, and that is said.
    lone = found["original-alone-s0"][2]
    assert lone is not None and lone.after["tofu/forget_quality"] is None is lone.after["tofu/privleak"]
    assert "alone: without a retrained model there is no forget_quality and no privleak" in " ".join(said.split())
    reported = (tmp_path / "runs" / "t" / "report" / "report.md").read_text()
    assert f"m: {tmp_path / 'published'}" in reported.replace("\\", "") and "| retrained |" in reported
    # Run again, nothing is left to do; with another published model that one alone is new.
    assert "0 trials to run" in sweep(tmp_path)
    save_model(tmp_path / "other", 2)
    other = [f"models.0.retrained={tmp_path / 'other'}", f"storage={tmp_path / 'runs'}"]
    statuses = {trial.name: trial.status for trial in plan_sweep(load_config(tmp_path / "c.yaml", other)).trials}
    assert statuses.pop("retrained-m-s0") == "new"
    assert statuses == {name: found[name][1].status for name in statuses}
