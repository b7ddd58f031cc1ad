"""The models after each epoch are evaluated beside the trials (evaluation.when=epochs): what a real sweep leaves.

Needs: Rays of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icu_ray.evaluation.benchmarks.derived import FORGET_QUALITY
from icu_ray.plan.grid import Plan
from icu_ray.storage.epoch_files import read_epoch_evaluations
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result
from icu_ray.sweep.run import run_sweep
from tests.support.benchmark_case import tofu_folder, tofu_sweep
from tests.support.trained import lent

ROWS, EPOCHS = 6, 3


def planned(folder: Path, when: str | None, **more: Any) -> Plan:
    return tofu_sweep(folder, ["kumpr"], EPOCHS, {} if when is None else {"when": when}, **more)


def paths_of(plan: Plan) -> TrialPaths:
    trial = next(trial for trial in plan.trials if trial.label == "kumpr")
    return TrialPaths.of(plan.config.storage, "t", trial.trial_id)


def test_the_key_changes_no_trial(tmp_path: Path) -> None:
    tofu_folder(tmp_path / "tofu", ROWS, later=True)
    ids = [[trial.trial_id for trial in planned(tmp_path, when).trials] for when in (None, "ends", "epochs")]
    assert ids[0] == ids[1] == ids[2]


@pytest.mark.slow
def test_every_epoch_is_evaluated_once_and_its_model_is_gone_then(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tofu_folder(tmp_path / "tofu", ROWS, later=True)
    runs = tmp_path / "runs"
    with lent(trained, runs / "store"):
        assert run_sweep(planned(tmp_path, "epochs", resources={"keep_models": False})) == 0
    plan = planned(tmp_path, "epochs", resources={"keep_models": False})
    paths = paths_of(plan)
    evaluation, result = read_evaluation(paths), read_result(paths)
    assert evaluation is not None and result is not None and result.epochs == EPOCHS
    epochs = read_epoch_evaluations(paths)
    # Epoch 0 is the original and the last one the trial's own.
    assert [each.epoch for each in epochs] == [1, 2]
    assert len({evaluation.models[0], *(each.model for each in epochs), evaluation.models[1]}) == EPOCHS + 1
    for each in epochs:
        assert dict(each.tasks) == dict(evaluation.tasks) and not each.errors
        assert set(each.metrics) == set(evaluation.after)
        needed = {f"tofu/{name}" for name in (*FORGET_QUALITY, "model_utility", "forget_Truth_Ratio")}
        assert needed <= set(each.metrics)
        assert each.metrics["tofu/forget_quality"] is not None and each.retrained
    sides = [evaluation.before, *(each.metrics for each in epochs), evaluation.after]
    probabilities = [side["tofu/forget_Q_A_Prob"] or 0.0 for side in sides]
    assert len(set(probabilities)) == EPOCHS + 1 and probabilities == sorted(probabilities, reverse=True)
    # No model is left, of an epoch or of a trial.
    assert [path.name for path in Path(paths.epochs).iterdir()] == ["evaluations.jsonl"]
    assert not list(runs.glob("t/trials/*/model"))

    # The report has it.
    summary = json.loads((runs / "t" / "summary.json").read_text())
    curve = summary["evaluations_by_epoch"][paths.trial_id]
    assert list(curve) == ["0", "1", "2", "3"] and curve["1"] == dict(epochs[0].metrics)
    page = (runs / "t" / "report" / "report.html").read_text()
    assert "What the evaluation measures by epoch" in page and (runs / "t" / "report" / "epochs.csv").is_file()

    # Once more there is nothing to do.
    written = {path: path.stat().st_mtime_ns for path in (runs / "t" / "trials").rglob("*") if path.is_file()}
    assert run_sweep(plan) == 0
    assert {path: path.stat().st_mtime_ns for path in (runs / "t" / "trials").rglob("*") if path.is_file()} == written

    # What was measured after epoch 2 is what a trial of two epochs leaves.
    two: dict[str, Any] = {"name": "two", "stop": {"rule": "epochs", "max_epochs": 2}}
    alone = planned(tmp_path, None, **two)
    assert run_sweep(alone) == 0
    other = TrialPaths.of(alone.config.storage, "two", next(t for t in alone.trials if t.label == "kumpr").trial_id)
    own, result = read_evaluation(other), read_result(other)
    assert own is not None and own.models[1] == epochs[1].model
    assert dict(own.after) == pytest.approx(dict(epochs[1].metrics))
    # It ended before the key was set: it is not run again, and nothing is made up for it.
    later = planned(tmp_path, "epochs", **two)
    assert not later.waiting and run_sweep(later) == 0
    assert not Path(other.epochs).exists() and read_result(other) == result
    said = (runs / "two" / "report" / "report.md").read_text()
    assert "ended before evaluation.when=epochs was set" in said and "evaluation measures by epoch" not in said
    assert json.loads((runs / "two" / "summary.json").read_text())["evaluations_by_epoch"] == {}
