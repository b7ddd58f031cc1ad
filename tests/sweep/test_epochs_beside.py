"""The models of a trial's epochs in the evaluation beside the trials, on a real Ray: found, evaluated once, removed.

Needs: one Ray.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.plan.grid import Plan
from icu_ray.storage.epoch_files import (
    drop_epoch_model,
    epoch_model,
    kept_epochs,
    mark_whole,
    read_epoch_evaluations,
)
from icu_ray.storage.files import list_dir
from icu_ray.storage.folders import remove
from icu_ray.storage.trial_files import TrialPaths, read_evaluation
from icu_ray.sweep.evaluation import SweepEvaluation
from icu_ray.sweep.trial_evaluation import epochs_of, outstanding
from tests.support.ended_sweep import ended_sweep
from tests.support.evaluation_case import save_model, write_mirror_rows

TASKS = ["hellaswag", "wow"]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    write_mirror_rows(folder, count=6)
    return folder


def swept(folder: Path, mirror: Path, when: str = "epochs") -> tuple[Plan, TrialPaths]:
    plan = ended_sweep(folder, {"evaluation": {"tasks": TASKS, "mirror": str(mirror), "when": when}})
    return plan, TrialPaths.of(plan.config.storage, "t", plan.trials[0].trial_id)


def leave(paths: TrialPaths, epoch: int, seed: int) -> str:
    """Put a model there, as the trial does after an epoch; its hash."""
    folder = save_model(Path(epoch_model(paths, epoch)), seed)
    model_hash = folder_fingerprint(folder)
    mark_whole(paths, epoch, model_hash)
    return model_hash


def run(plan: Plan, folder: Path) -> SweepEvaluation:
    stage = SweepEvaluation(plan, str(folder / "runs" / "store"), lambda step: None)
    with stage.running():
        for trial in outstanding(plan):
            stage.add(trial)
        stage.finish()
    return stage


def test_left_models_are_outstanding_until_they_are_evaluated(ray_cluster: None, tmp_path: Path, mirror: Path) -> None:
    plan, paths = swept(tmp_path, mirror)
    assert run(plan, tmp_path).failures == [] and outstanding(plan) == ()
    own = (Path(paths.root) / "evaluation.json").read_bytes()
    hashes = {epoch: leave(paths, epoch, seed) for epoch, seed in ((1, 1), (2, 0), (10, 2))}
    assert outstanding(plan) == plan.trials
    assert outstanding(swept(tmp_path, mirror, "ends")[0]) == ()
    broken = Path(epoch_model(paths, 10)) / "model.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1000])

    failures = run(plan, tmp_path).failures
    # The model that cannot be read is said, and stays for another try.
    assert len(failures) == len(TASKS) and all("after epoch 10" in line for line in failures)
    assert kept_epochs(paths) == {10: hashes[10]}
    first, second, tenth = read_epoch_evaluations(paths)
    assert [each.epoch for each in (first, second, tenth)] == [1, 2, 10]
    assert {each.epoch: each.model for each in (first, second, tenth)} == hashes
    assert set(tenth.errors) == set(TASKS) and not tenth.metrics and not first.errors
    evaluation = read_evaluation(paths)
    assert evaluation is not None and dict(second.metrics) == dict(evaluation.after)  # of the same weights
    assert dict(first.metrics) != dict(second.metrics)
    # The trial's own evaluation was there, and is as it was.
    assert (Path(paths.root) / "evaluation.json").read_bytes() == own

    broken.write_bytes(whole)
    assert outstanding(plan) == plan.trials and run(plan, tmp_path).failures == []
    assert list_dir(paths.epochs) == ["evaluations.jsonl"] and outstanding(plan) == ()
    assert read_epoch_evaluations(paths)[:2] == (first, second)
    assert "dialogue/wow_f1" in read_epoch_evaluations(paths)[2].metrics


def test_models_of_a_running_trial_are_found_and_one_that_was_trained_anew_is_asked_itself(
    ray_cluster: None, tmp_path: Path, mirror: Path
) -> None:
    plan, paths = swept(tmp_path, mirror)
    (trial,) = plan.trials
    stage = SweepEvaluation(plan, str(tmp_path / "runs" / "store"), lambda step: None)
    leave(paths, 1, 1)
    (old,) = epochs_of(plan.config, trial)
    stage.started(trial)
    stage._look()
    assert [each.key for each in stage._open()] == [old.key]
    # What was found is gone: the epoch was trained anew, and came to another model.
    drop_epoch_model(paths, 1)
    new = leave(paths, 1, 2)
    with stage.running():
        stage.ended(trial.trial_id)
        stage.add(trial)
        stage.finish()
    (found,) = read_epoch_evaluations(paths)
    assert found.model == new != old.after.hash and not found.errors and set(found.tasks) == set(TASKS)
    assert stage.failures == [] and kept_epochs(paths) == {}
    assert read_evaluation(paths) is not None


def test_an_epoch_that_is_trained_again_alike_has_its_line_again(
    ray_cluster: None, tmp_path: Path, mirror: Path
) -> None:
    plan, paths = swept(tmp_path, mirror)
    (trial,) = plan.trials
    stage = SweepEvaluation(plan, str(tmp_path / "runs" / "store"), lambda step: None)
    leave(paths, 1, 1)
    with stage.running():
        stage.started(trial)
        until = time.monotonic() + 600
        while kept_epochs(paths) and time.monotonic() < until:
            time.sleep(0.2)
        first = read_epoch_evaluations(paths)
        # The attempt is lost before its checkpoint, and the next one begins anew.
        remove(paths.epochs)
        leave(paths, 1, 1)
        stage.ended(trial.trial_id)
        stage.add(trial)
        stage.finish()
    assert len(first) == 1 and read_epoch_evaluations(paths) == first
    assert stage.failures == [] and kept_epochs(paths) == {}
