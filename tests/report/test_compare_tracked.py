"""`icu-ray compare` with sweeps of MLflow's experiments: by their folders where they are there, else by what was sent.

Needs: nothing; MLflow's database is a file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main
from icu_ray.report.collect import collect
from icu_ray.report.collect_tracked import collect_tracked
from icu_ray.report.tracking.read import read_tracked
from icu_ray.report.tracking.runs import STORAGE_TAG, SWEEP_TAG
from icu_ray.report.tracking.sync import sync_sweep
from icu_ray.storage.flat import flatten
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, write_evaluation
from tests.support.report_case import Cell, config, write_sweep

pytestmark = pytest.mark.slow
A = [Cell(sample=n, final=(0.5 + n / 100, 0.04, 24.0, 3.8)) for n in range(3)]
B = [Cell(sample=n, lr=1e-4, final=(0.4 + n / 50, 0.02, 30.0, 3.8)) for n in range(3)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with two sweeps that were sent, an experiment each, and a run of somebody else in one of them."""
    from mlflow import MlflowClient

    storage = tmp_path_factory.mktemp("kept")
    uri = f"sqlite:///{storage}/mlflow.db"
    for name, cells in (("a", A), ("b", B)):
        write_sweep(storage, name, cells, config(name, lr=cells[0].lr))
        for cell in cells:
            metrics = {"tofu/forget_quality": 0.1 + cell.sample / 10, "cls/copa_acc": 0.5}
            paths = TrialPaths.of(str(storage), name, cell.trial_id)
            write_evaluation(paths, TrialEvaluation({}, ("", ""), {"cls/copa_acc": 0.75}, metrics))
        sync_sweep(str(storage), name, uri, over=True)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("a")
    assert experiment is not None
    client.log_metric(client.create_run(experiment.experiment_id).info.run_id, "after/ma", 0.01)
    return storage


@pytest.fixture
def sent(kept: Path, tmp_path: Path) -> Path:
    """The same, to be damaged by one test: the sweeps' folders are elsewhere than MLflow says."""
    shutil.copytree(kept, tmp_path / "s")
    return tmp_path / "s"


def compared(storage: Path, first: str, second: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    uri = f"sqlite:///{storage}/mlflow.db"
    assert main(["compare", first, second, "--json", "--tracking-uri", uri]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def numbers(told: dict[str, Any]) -> dict[str, Any]:
    return {each["metric"]: each for each in told["numbers"]}


def tell_storage(storage: Path, name: str, told: str) -> None:
    """Have MLflow say that a sweep lies somewhere."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{SWEEP_TAG}` = '{name}'")
    client.set_tag(run.info.run_id, STORAGE_TAG, told)


def test_what_is_in_storage_is_read_there(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracked = compared(kept, "mlflow:a", "mlflow:b", capsys)
    assert all("numbers from its folder, " in note for note in tracked["notes"]) and len(tracked["notes"]) == 2
    plain = compared(kept, str(kept / "a"), str(kept / "b"), capsys)
    assert plain["notes"] == []
    for key in ("config", "data", "versions", "trials", "numbers"):
        assert tracked[key] == plain[key], key
    assert numbers(tracked)["ma_pct"]["ci95"] > 0 and numbers(tracked)["tofu/forget_quality"]["n"] == 3


def test_without_its_folder_a_sweep_is_what_was_sent(
    kept: Path, sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        tell_storage(sent, name, str(sent / "gone"))
    plain = compared(kept, str(kept / "a"), str(kept / "b"), capsys)
    tracked = compared(sent, "mlflow:a", "mlflow:b", capsys)
    assert tracked["config"] == plain["config"] and tracked["trials"] == plain["trials"]
    assert numbers(tracked).keys() == numbers(plain).keys() and len(numbers(plain)) > 8
    for metric, pair in numbers(plain).items():
        assert flatten(numbers(tracked)[metric]) == pytest.approx(flatten(pair)), metric
        assert pair["n"] == 3
    (note, _) = tracked["notes"]
    assert "numbers from MLflow, as its folder " in note and "versions of packages" in note
    # A folder beside it is compared by what both have, and the same sweep is equal to itself.
    mixed = compared(sent, str(kept / "a"), "mlflow:a", capsys)
    assert mixed["equal"] and mixed["data"] == mixed["versions"] == []
    assert main(["compare", "mlflow:a", "mlflow:b", "--tracking-uri", f"sqlite:///{sent}/mlflow.db"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "A: numbers from MLflow, as its folder " in out and "B: numbers from" in out and "optim.lr" in out


def test_a_folder_that_is_another_sweeps_is_not_taken_for_it(kept: Path, sent: Path) -> None:
    uri = f"sqlite:///{sent}/mlflow.db"
    told = read_tracked(uri, "a")
    assert told.storage == str(kept) and told.missing == ()
    assert [trial.spec.trial_id for trial in told.trials] == [cell.trial_id for cell in A]
    first, second = told.trials[0], collect([(str(kept), "a")]).trials[0]
    assert first.spec.hyperparameters == second.hyperparameters and first.spec.settings == second.settings
    assert first.result is not None and second.result is not None
    assert (first.result.before, first.result.after) == (second.result.before, second.result.after)
    assert first.evaluation is not None and second.evaluation is not None
    assert (first.evaluation.before, first.evaluation.after) == (second.evaluation.before, second.evaluation.after)
    assert not collect_tracked(uri, "a").tracked
    other = write_sweep(sent / "other", "a", A)  # of the same name, with an id of its own
    tell_storage(sent, "a", str(other.parent))
    assert collect_tracked(uri, "a").tracked


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("mlflow:c", "no experiment 'c'"),
        ("mlflow:a/none", "holds no such sweep; expected mlflow:a/ID with the id of one of: a ("),
        ("mlflow:", "expected the name of an experiment"),
        ("mlflow:Default", "holds no sweep of icu_ray"),
    ],
)
def test_what_is_no_sweep_there_is_refused(
    kept: Path, asked: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(kept / "a"), asked, "--tracking-uri", f"sqlite:///{kept}/mlflow.db"]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_of_several_sweeps_one_is_named(sent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{sent}/mlflow.db"
    write_sweep(tmp_path / "other", "a", A[:1])
    sync_sweep(str(tmp_path / "other"), "a", uri, over=True)
    assert main(["compare", "mlflow:a", "mlflow:b", "--tracking-uri", uri]) == 2
    assert "experiment 'a' holds 2 sweeps" in " ".join(capsys.readouterr().err.split())
    sweep_id = json.loads((tmp_path / "other" / "a" / "sweep.json").read_text())["id"]
    told = compared(sent, f"mlflow:a/{sweep_id}", f"mlflow:a/{sweep_id}", capsys)
    assert told["equal"] and {pair["n"] for pair in told["numbers"]} == {1}


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.db"
    assert main(["compare", "mlflow:a", "mlflow:b", "--tracking-uri", f"sqlite:///{missing}"]) == 2
    assert "no such file; expected the database" in " ".join(capsys.readouterr().err.split())
    assert not missing.exists()
