"""The evaluation beside the trials on a real Ray: what it leaves, that it goes on, and that it makes room.

Needs: one Ray.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config import SweepConfig
from icu_ray.console.progress import Step
from icu_ray.evaluation.suites import Options
from icu_ray.plan.grid import Plan
from icu_ray.services.evaluate import evaluate
from icu_ray.storage.trial_files import TrialPaths, read_documents, read_evaluation, read_result
from icu_ray.sweep import beside
from icu_ray.sweep.evaluation import SweepEvaluation
from icu_ray.sweep.rounds import Claims
from icu_ray.sweep.run import run_sweep
from icu_ray.sweep.trial_evaluation import models_of, outstanding
from tests.support.ended_sweep import ended_sweep
from tests.support.evaluation_case import write_mirror_rows

TASKS = ["hellaswag", "wow", "pile_icu"]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mirror")
    write_mirror_rows(folder, count=12)
    return folder


def evaluated_sweep(folder: Path, mirror: Path, tasks: list[str]) -> Plan:
    """Its models are to be asked these tasks."""
    return ended_sweep(folder, {"evaluation": {"tasks": tasks, "mirror": str(mirror)}})


def test_what_is_left_beside_trials_that_share_gpus() -> None:
    """Halves that are free on two GPUs are no GPU."""
    claims, four = Claims(), {"CPU": 8.0, "GPU": 4.0}
    for trial in "ab":
        claims.waits(trial, 1.0, 0.5)
    assert claims.spare({"CPU": 6.0, "GPU": 3.0}, four) == {"CPU": 6.0, "GPU": 2.0}
    assert claims.spare({"CPU": 6.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0}) is None


def run(plan: Plan, folder: Path, steps: list[Step] | None = None) -> SweepEvaluation:
    stage = SweepEvaluation(plan, str(folder / "runs" / "store"), (steps if steps is not None else []).append)
    with stage.running():
        for trial in outstanding(plan):
            stage.add(trial)
        stage.finish()
    return stage


def test_what_is_left_equals_an_evaluation_alone(ray_cluster: None, tmp_path: Path, mirror: Path) -> None:
    plan = evaluated_sweep(tmp_path, mirror, TASKS)
    assert len(outstanding(plan)) == 1
    steps: list[Step] = []
    assert run(plan, tmp_path, steps).failures == []
    assert steps[-1].part == 1
    paths = TrialPaths.of(plan.config.storage, "t", plan.trials[0].trial_id)
    found = read_evaluation(paths)
    assert found is not None and set(found.tasks) == set(TASKS)
    alone = evaluate([str(tmp_path / "model")], TASKS, Options(mirror=mirror), storage=str(tmp_path / "runs"))
    expected = {name: value for each in alone for name, value in each.metrics.items()}
    assert dict(found.after) == expected == dict(found.before)
    import pyarrow.parquet as pq

    assert read_documents(paths.documents, found) and found.documents
    table = pq.read_table(paths.documents)
    assert set(table.column("task").to_pylist()) == set(TASKS)
    assert table.num_rows == sum(each.documents for each in alone)  # one model: before and after are the same
    # Nothing is outstanding now; a config that asks for more is.
    assert outstanding(plan) == ()
    assert len(outstanding(evaluated_sweep(tmp_path, mirror, [*TASKS, "pile_rolling"]))) == 1


def test_an_interruption_while_the_report_is_written_says_that_all_is_kept(
    tmp_path: Path, mirror: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: SweepConfig) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("icu_ray.sweep.run._write_report", interrupted)
    plan = evaluated_sweep(tmp_path, mirror, [])
    untracked = plan.config.tracking.model_copy(update={"enabled": False})
    assert run_sweep(replace(plan, config=plan.config.model_copy(update={"tracking": untracked}))) == 130
    assert "Interrupted. What was finished is kept" in capfd.readouterr().out
    assert (tmp_path / "runs" / "t" / "trials.csv").is_file()


def test_a_trial_s_models_are_checked_against_their_record(tmp_path: Path, mirror: Path) -> None:
    plan = evaluated_sweep(tmp_path, mirror, ["wow"])
    result = read_result(TrialPaths.of(plan.config.storage, "t", plan.trials[0].trial_id))
    assert result is not None
    for epochs in (0, 1):
        models = models_of(plan, str(tmp_path / "store"), plan.trials[0], replace(result, epochs=epochs))
        assert [subject.recorded for subject in models.subjects] == [True, True]


@pytest.mark.slow
def test_what_cannot_be_evaluated_is_said_and_tried_again(ray_cluster: None, tmp_path: Path, mirror: Path) -> None:
    plan = evaluated_sweep(tmp_path, mirror, ["wow"])
    weights = tmp_path / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    failures = run(plan, tmp_path).failures
    assert len(failures) == 1 and failures[0].startswith("wow of m:")
    paths = TrialPaths.of(plan.config.storage, "t", plan.trials[0].trial_id)
    found = read_evaluation(paths)
    assert found is not None and set(found.errors) == {"wow"} and not found.after
    weights.write_bytes(whole)
    assert len(outstanding(plan)) == 1
    assert run(plan, tmp_path).failures == []
    found = read_evaluation(paths)
    assert found is not None and not found.errors and "dialogue/wow_f1" in found.after


@pytest.mark.slow
def test_a_trial_without_a_place_gets_that_of_the_evaluation(
    ray_cluster: None, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    monkeypatch.setattr(beside, "PATIENCE_SECONDS", 0.5)
    plan = evaluated_sweep(tmp_path, mirror, [*TASKS, "arc_easy", "piqa", "winogrande", "bst", "wikitext_rolling"])
    steps: list[Step] = []
    stage = SweepEvaluation(plan, str(tmp_path / "runs" / "store"), steps.append)
    with stage.running():
        stage.add(plan.trials[0])
        assert _within(300, lambda: ray.available_resources().get("CPU", 0) < 2)
        stage.waits("trial", 2, 0)
        group = placement_group([{"CPU": 2}])
        assert group.wait(300)
        so_far = len(steps)
        time.sleep(2)
        assert len(steps) == so_far  # while the trial waits for its place to be told, nothing is begun
        stage.placed("trial")
        time.sleep(3)
        assert len(steps) == so_far  # nor while it holds all there is
        stage.ended("trial")
        remove_placement_group(group)
        assert _within(300, lambda: not stage._open())
    assert stage.failures == []


def test_leaving_ends_what_is_under_way(ray_cluster: None, tmp_path: Path, mirror: Path) -> None:
    import ray

    plan = evaluated_sweep(tmp_path, mirror, TASKS)
    stage = SweepEvaluation(plan, str(tmp_path / "runs" / "store"), lambda step: None)
    with stage.running():
        stage.add(plan.trials[0])
        assert _within(300, lambda: ray.available_resources().get("CPU", 0) < 2)
        began = time.monotonic()
    assert stage._open() and time.monotonic() - began < 30
    assert _within(300, lambda: ray.available_resources().get("CPU", 0) == 2)
    assert not [thread for thread in threading.enumerate() if thread.name == "evaluation"]


def _within(seconds: float, reached: Any) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.1)
    return False
