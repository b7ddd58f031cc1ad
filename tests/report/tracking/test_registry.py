"""Versions of a ledger's model in MLflow's registry, and runs that a purge takes away.

Needs: nothing; MLflow on an SQLite file.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from mlflow import MlflowClient

from icu_ray.report.tracking.registry import BASE_TAG, REMOVED_TAG, VERSION_TAG, delete_sweep
from icu_ray.report.tracking.runs import PARENT_TAG, SWEEP_ID_TAG
from icu_ray.requests.ledger_texts import read_state
from icu_ray.requests.purge import purge
from icu_ray.requests.registering import register
from icu_ray.requests.run_requests import run
from icu_ray.requests.undo import undo
from icu_ray.storage.results import Provenance, Sweep, to_json
from tests.support.ledgers import enter, made, trial


def test_versions_are_registered_once_with_their_predecessor(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = made(tmp_path, mlflow=uri)
    assert register(folder) == ""
    for number in (0, 1):
        enter(folder, number)
        assert run(folder, forget=trial()).code == 0
    assert register(folder) == register(folder) == ""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = sorted(client.search_model_versions("name = 'ledger'"), key=lambda each: int(each.version))
    assert [(each.tags[VERSION_TAG], each.tags[BASE_TAG], each.tags["requests"]) for each in found] == [
        ("1", "0", "r1"),
        ("2", "1", "r2"),
    ]
    assert found[1].tags["icu_ray.predecessor_here"] == str(found[0].version)
    assert found[1].source == (folder / "versions" / "2" / "model").as_uri()
    assert {number: each.registry for number, each in read_state(folder).versions.items()} == {
        1: "ledger/1",
        2: "ledger/2",
    }
    assert client.get_model_version_by_alias("ledger", "current").tags[VERSION_TAG] == "2"
    undo(folder, "r2")
    assert register(folder) == ""
    assert client.get_model_version_by_alias("ledger", "current").tags[VERSION_TAG] == "1"
    undo(folder, "r1")
    assert register(folder) == "" and not client.get_registered_model("ledger").aliases


def test_versions_whose_models_are_purged_are_marked(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = made(tmp_path, mlflow=uri)
    for number in (0, 1, 2):
        enter(folder, number)
        assert run(folder, forget=trial()).code == 0
        assert number == 1 or register(folder) == ""
    assert purge(folder, days=0.0)["versions"] == [1, 2] and register(folder) == ""
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    found = {each.tags[VERSION_TAG]: each.tags for each in client.search_model_versions("name = 'ledger'")}
    assert {number: REMOVED_TAG in tags for number, tags in found.items()} == {"1": True, "2": True, "3": False}
    # One that cannot be reached is named, and the models are gone all the same.
    enter(folder, 3)
    assert run(folder, forget=trial()).code == 0
    (tmp_path / "mlflow.db").unlink()
    (tmp_path / "mlflow.db").mkdir()
    told = purge(folder, days=0.0)
    assert "registry entries ledger/3, whose models are deleted" in told["unmarked"][0]
    assert not (folder / "versions" / "3" / "model").exists()


def test_a_registry_that_is_away_is_told_and_loses_no_version(tmp_path: Path) -> None:
    folder = made(tmp_path, mlflow=f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    (tmp_path / "no").write_text("a file stands where a folder is needed")
    enter(folder, 0)
    assert run(folder, forget=trial()).code == 0
    said = register(folder)
    assert "did not take the versions" in said and "the next run sends them" in said
    assert read_state(folder).current == 1 and (folder / "versions" / "1" / "model").is_dir()


def test_the_runs_of_a_sweep_are_deleted_with_their_artefacts(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("run-1", artifact_location=(tmp_path / "artefacts").as_uri())
    parent = client.create_run(experiment, tags={SWEEP_ID_TAG: "mine"}).info.run_id
    child = client.create_run(experiment, tags={PARENT_TAG: parent}).info.run_id
    other = client.create_run(experiment, tags={SWEEP_ID_TAG: "another's"}).info.run_id
    for run_id in (parent, child, other):
        client.log_dict(run_id, {"text": "a sentence to forget"}, "samples.json")
    assert delete_sweep(uri, "mine") == 2
    left = [path for path in (tmp_path / "artefacts").rglob("*") if path.is_file()]
    assert [path.parts[-3] for path in left] == [other]
    assert client.get_run(child).info.lifecycle_stage == "deleted"
    assert client.get_run(other).info.lifecycle_stage == "active"
    assert delete_sweep(uri, "mine") == 2  # as after a kill: nothing is there any more, and that is no error


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_purge_finds_the_mlflow_of_the_run_and_names_what_it_cannot_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("run-1", artifact_location=(tmp_path / "artefacts").as_uri())
    folder = made(tmp_path)
    enter(folder, 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert run(folder, overrides=["tracking.enabled=true"], forget=trial()).code == 0
    assert read_state(folder).attempts[1].tracked == (uri,)
    (place,) = (folder / "work").glob("run-*")
    config, made_by = {"tracking": {"enabled": True, "uri": None}}, Provenance("0.1", "c0ffee", False, "", "", {}, {})
    (place / "sweep.json").write_bytes(to_json(asdict(Sweep("s1", place.name, 1.0, config, (), made_by))))
    sent = client.create_run(experiment, tags={SWEEP_ID_TAG: "s1"}).info.run_id
    (tmp_path / "no").write_text("a file stands where a folder is needed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'no' / 'folder.db'}")
    purged = purge(folder, days=0.0)
    assert client.get_run(sent).info.lifecycle_stage == "deleted"
    assert any("1 runs" in each and uri in each for each in purged["places"])
    (unreached,) = purged["unreached"]
    assert "no/folder.db" in unreached and "= s1" in unreached and not list((folder / "work").iterdir())
