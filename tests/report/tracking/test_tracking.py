"""MLflow shows what storage holds: on a real server, through its absence and its death, and never twice.

Needs: an MLflow server of its own.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from icu_ray.cli.main import main as cli
from icu_ray.errors import without_secrets
from icu_ray.report.tracking.sync import Later, SyncState, _result_digest, sync_sweep
from icu_ray.report.tracking.tracker import Tracker, tracking_uri, ui_command
from icu_ray.storage.el_names import plain
from icu_ray.storage.results import (
    EpochRecord,
    Provenance,
    SampleRecord,
    Scores,
    TrialEvaluation,
    TrialResult,
    TrialSpec,
    to_json,
)
from icu_ray.storage.trial_files import (
    TrialPaths,
    open_sweep,
    start_trial,
    write_beat,
    write_evaluation,
    write_events,
    write_result,
    write_samples,
)
from tests.support.mlflow_server import Server
from tests.support.slow_proxy import SlowProxy
from tests.support.sqlite_lock import locked

WEIGHTS = {"alpha": 0.5, "beta": 1.0, "lr": 5e-6, "seed": 42}
MADE_BY = Provenance("0.1.0", "c0ffee" * 7, False, data="d" * 64, model="m" * 64, config={"fidelity": "default"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"))
    found.start()
    yield found
    found.kill()


def scores(epoch: int) -> Scores:
    return Scores(0.95 - epoch / 10, 0.7 - epoch / 5, 0.1 + epoch, 0.9, 0.5, 4.0, 0.8, 20.0 + epoch)


def history(epochs: int) -> list[EpochRecord]:
    return [EpochRecord(e, 8 - e, scores(e), {"forget": -float(e)}, {"train": 1.0}, 2) for e in range(epochs + 1)]


def make_sweep(storage: Path, name: str, trials: int = 2) -> list[TrialPaths]:
    """A sweep with `trials` running trials of two epochs."""
    told = {"stop": {"ma": 0.5994}}
    specs = [TrialSpec(f"id{i}", f"icu-m-s{i}", "m", "icu", i, WEIGHTS, 10, told, None, MADE_BY) for i in range(trials)]
    open_sweep(str(storage), name, {"name": name, "fidelity": "default"}, specs, MADE_BY)
    paths = [TrialPaths.of(str(storage), name, spec.trial_id) for spec in specs]
    for path, spec in zip(paths, specs, strict=True):
        start_trial(path, spec)
        write_events(path, history(2))
    return paths


def end_trial(path: TrialPaths, number: int, status: Any = "finished") -> TrialResult:
    write_events(path, history(3))
    write_samples(path, [SampleRecord("r1", "to", "be", "be", "or", 0.9, 0.5, 0.2, 0.0, True)])
    result = TrialResult(
        f"id{number}",
        f"icu-m-s{number}",
        "m",
        "icu",
        number,
        WEIGHTS,
        status,
        "",
        3,
        scores(0),
        scores(3),
        {"total": 9.0},
    )
    write_result(path, result)
    return result


def runs(uri: str, name: str) -> tuple[Any, dict[str, Any]]:
    """The parent and its children by name; fails when a trial has two runs."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in found if "mlflow.parentRunId" in run.data.tags}
    assert len(parents) == 1
    assert len(found) == 1 + len(children)
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}
    return parents[0], children


def curve(uri: str, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, metric)]


@pytest.mark.slow
def test_a_sweep_on_a_server(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    paths = make_sweep(tmp_path, "whole")
    assert sync_sweep(str(tmp_path), "whole", server.uri) > 0
    parent, children = runs(server.uri, "whole")
    assert parent.info.status == "RUNNING"
    assert curve(server.uri, children["icu-m-s0"], "ma") == [(0, 0.95), (1, 0.85), (2, 0.75)]

    result = end_trial(paths[0], 0)
    end_trial(paths[1], 1, "failed")
    sync_sweep(str(tmp_path), "whole", server.uri, over=True)
    assert sync_sweep(str(tmp_path), "whole", server.uri, over=True) == 0
    assert capfd.readouterr().out == ""
    parent, children = runs(server.uri, "whole")
    assert parent.info.status == "FAILED"
    assert (children["icu-m-s0"].info.status, children["icu-m-s1"].info.status) == ("FINISHED", "FAILED")
    done = children["icu-m-s0"]
    assert [step for step, _ in curve(server.uri, done, "el10")] == [0, 1, 2, 3]
    assert result.after is not None
    assert done.data.metrics["after/ma"] == pytest.approx(result.after.ma)
    assert done.data.metrics["ppl_heldout_ratio"] == pytest.approx(23 / 20)
    assert (done.data.params["alpha"], done.data.params["stop.ma"]) == ("0.5", "0.5994")
    wanted = {
        "model": "m",
        "method": "icu",
        "seed": "42",
        "alpha": "0.5",
        "beta": "1.0",
        "lr": str(WEIGHTS["lr"]),
        "dataset_hash": "d" * 16,
    }
    assert wanted.items() <= done.data.tags.items()
    assert done.data.tags["model_hash"] == "m" * 16
    assert "model_path" not in done.data.tags  # no model was kept
    client = MlflowClient(server.uri)
    assert client.download_artifacts(done.info.run_id, "samples.json", str(tmp_path)).endswith("samples.json")
    config = client.download_artifacts(parent.info.run_id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(config).read_text())["name"] == "whole"


@pytest.mark.slow
def test_two_storages_with_a_sweep_of_one_name(server: Server, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    for storage in ("a", "b"):
        (path,) = make_sweep(tmp_path / storage, "twins", trials=1)
        end_trial(path, 0)
        assert sync_sweep(str(tmp_path / storage), "twins", server.uri, over=True) > 0
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("twins")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    assert len(found) == 4
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == len(children) == 2


@pytest.mark.slow
def test_a_trial_that_failed_and_then_forgot(server: Server, tmp_path: Path) -> None:
    (path,) = make_sweep(tmp_path, "again", trials=1)
    end_trial(path, 0, "failed")
    state = SyncState()
    sync_sweep(str(tmp_path), "again", server.uri, state=state)
    assert runs(server.uri, "again")[1]["icu-m-s0"].info.status == "FAILED"
    end_trial(path, 0, "finished")
    sync_sweep(str(tmp_path), "again", server.uri, state=state, over=True)
    child = runs(server.uri, "again")[1]["icu-m-s0"]
    assert (child.info.status, child.data.tags["status"]) == ("FINISHED", "finished")


@pytest.mark.slow
def test_a_server_that_is_away_and_one_that_dies(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_sweep(tmp_path, "outage")
    tracker = Tracker(str(tmp_path), "outage", server.uri, every_seconds=0.2)
    tracker.start()
    deadline = time.monotonic() + 120
    while len(tracker._state.epochs) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.kill()
    for number, path in enumerate(paths):
        end_trial(path, number)
    write_beat(str(tmp_path), "outage", "finished")
    assert tracker.finish() is False
    assert tracker.trouble is not None

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert cli(["sync", str(tmp_path / "outage")]) == 2
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "nothing is lost" in said

    server.start()
    sent = []
    for _ in range(2):
        assert cli(["sync", str(tmp_path / "outage"), "--json"]) == 0
        sent.append(json.loads(capsys.readouterr().out)["sent"])
    assert sent[0] > 0 and sent[1] == 0
    parent, children = runs(server.uri, "outage")
    assert parent.info.status == "FINISHED"
    assert set(children) == {"icu-m-s0", "icu-m-s1"}
    for child in children.values():
        assert [step for step, _ in curve(server.uri, child, "ma")] == [0, 1, 2, 3]
        assert child.info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_is_slow_and_one_that_answers_too_late(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver waits for neither; what was not answered is not sent twice, though the server had carried it out."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    with SlowProxy(server.port, delay=1.0) as proxy:
        slow = make_sweep(tmp_path, "slow")
        tracker = Tracker(str(tmp_path), "slow", proxy.uri, every_seconds=0.2)
        tracker.start()
        for number, path in enumerate(slow):
            end_trial(path, number)
        write_beat(str(tmp_path), "slow", "finished")
        began = time.monotonic()
        assert tracker.finish(2.0) is False
        assert time.monotonic() - began < 50 and "within 2 s" in str(tracker.trouble)
        proxy.delay = 0.0
        tracker._thread.join()  # a process that ends would not wait for it
        proxy.delay = 3.0  # each answer comes after its request was given up
        late = make_sweep(tmp_path, "late")
        for request in (b"POST /api/2.0/mlflow/runs/create", b"POST /api/2.0/mlflow/runs/log-batch"):
            proxy.only = request
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
            with pytest.raises(Exception, match="timed out"):
                sync_sweep(str(tmp_path), "late", proxy.uri)
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
            proxy.delay = 0.0
            sync_sweep(str(tmp_path), "late", proxy.uri)
            proxy.delay = 3.0
            for path in late:
                write_events(path, history(3))
        proxy.delay = 0.0
        for number, path in enumerate(late):
            end_trial(path, number)
        for name in ("slow", "late"):
            write_beat(str(tmp_path), name, "finished")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
            assert cli(["sync", str(tmp_path / name)]) == 0
            parent, children = runs(server.uri, name)
            assert parent.info.status == "FINISHED" and len(children) == 2
            for child in children.values():
                assert child.info.status == "FINISHED" and child.data.metrics["after/ma"] == pytest.approx(0.65)
                assert curve(server.uri, child, "ma") == [(e, pytest.approx(0.95 - e / 10)) for e in range(4)]


def test_a_database_that_another_process_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = tracking_uri(str(tmp_path))
    paths = make_sweep(tmp_path, "locked")
    tracker = Tracker(str(tmp_path), "locked", uri, every_seconds=0.2)
    tracker.start()
    deadline = time.monotonic() + 120
    while len(tracker._state.epochs) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with locked(tmp_path / "mlflow.db"):
        for number, path in enumerate(paths):
            end_trial(path, number)
        write_beat(str(tmp_path), "locked", "finished")
        assert tracker.finish(1.0) is False
    tracker._thread.join()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert cli(["sync", str(tmp_path / "locked")]) == 0
    parent, children = runs(uri, "locked")
    assert parent.info.status == "FINISHED" and len(children) == 2
    for child in children.values():
        assert curve(uri, child, "ma") == [(e, pytest.approx(0.95 - e / 10)) for e in range(4)]


def test_a_trial_that_goes_on_keeps_its_run(tmp_path: Path) -> None:
    """An interrupted trial's run is closed, opened again by the next driver, and gets only the new epochs."""
    uri = tracking_uri(str(tmp_path))
    (path,) = make_sweep(tmp_path, "resumed", trials=1)
    sync_sweep(str(tmp_path), "resumed", uri, over=True)
    _, children = runs(uri, "resumed")
    assert children["icu-m-s0"].info.status == "KILLED"
    write_events(path, [*history(2), replace(history(3)[3], notes=("continued",))])
    sync_sweep(str(tmp_path), "resumed", uri)
    _, children = runs(uri, "resumed")
    assert children["icu-m-s0"].info.status == "RUNNING"
    end_trial(path, 0)
    sync_sweep(str(tmp_path), "resumed", uri, over=True)
    parent, children = runs(uri, "resumed")
    assert (parent.info.status, children["icu-m-s0"].info.status) == ("FINISHED", "FINISHED")
    assert curve(uri, children["icu-m-s0"], "ma") == [(e, pytest.approx(0.95 - e / 10)) for e in range(4)]


def test_an_evaluation_of_an_earlier_version_is_not_sent_again() -> None:
    """Its trial's run says by this digest that it is complete; the key `documents` was not there."""
    result = TrialResult("id0", "t", "m", "icu", 0, WEIGHTS, "finished", "", 1, scores(0), scores(1), {"total": 9.0})
    was = {"tasks": {"copa": "h"}, "models": ("a", "b"), "before": {"cls/copa_acc": 0.5}, "after": {}, "errors": {}}
    digest = hashlib.sha256(to_json(plain(result)) + to_json(was)).hexdigest()[:16]
    evaluation = TrialEvaluation({"copa": "h"}, ("a", "b"), {"cls/copa_acc": 0.5}, {})
    assert _result_digest(result, Later(evaluation, None)) == digest
    assert _result_digest(result, Later(replace(evaluation, documents="d" * 64), None)) != digest


def test_documents_that_were_not_sent_are_sent_once_they_are_right(tmp_path: Path) -> None:
    uri = tracking_uri(str(tmp_path))
    (path,) = make_sweep(tmp_path, "repaired", trials=1)
    end_trial(path, 0)
    content = b"what was answered"
    documents = hashlib.sha256(content).hexdigest()
    write_evaluation(path, TrialEvaluation({}, ("a", "b"), {}, {}, documents=documents))
    Path(path.documents).write_bytes(b"something else")

    def sent() -> list[str]:
        sync_sweep(str(tmp_path), "repaired", uri, over=True)
        run = runs(uri, "repaired")[1]["icu-m-s0"]
        return [file.path for file in MlflowClient(uri).list_artifacts(run.info.run_id, "evaluation")]

    assert sent() == []
    Path(path.documents).write_bytes(content)
    assert sent() == ["evaluation/documents.parquet"]


def test_a_sweep_that_is_anothers_is_left_as_it_is(tmp_path: Path) -> None:
    storage, uri = str(tmp_path / "runs"), f"sqlite:///{tmp_path}/mlflow.db"
    spec = TrialSpec("id1", "t1", "m", "icu", 0, WEIGHTS, 3, {}, None, MADE_BY)
    open_sweep(storage, "s", {"name": "s"}, [spec], MADE_BY)
    start_trial(TrialPaths.of(storage, "s", "id1"), spec)
    tracker = Tracker(storage, "s", uri, every_seconds=0.1)
    tracker.start()
    statuses: list[str] = []
    deadline = time.monotonic() + 180
    while len(statuses) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name("s")
        statuses = [] if experiment is None else [r.info.status for r in client.search_runs([experiment.experiment_id])]
    tracker.abandon()
    tracker._thread.join(timeout=120)
    assert not tracker._thread.is_alive()
    assert experiment is not None
    assert [r.info.status for r in client.search_runs([experiment.experiment_id])] == ["RUNNING", "RUNNING"]


@pytest.mark.parametrize("what", ["a folder", "no SQLite database", "a link to nothing"])
def test_what_is_no_database_is_refused_at_once(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_sweep(tmp_path, "s", trials=1)
    place = tmp_path / "mlflow.db"
    if what == "a folder":
        place.mkdir()
    elif what == "a link to nothing":
        place.symlink_to(tmp_path / "nowhere" / "mlflow.db")
    else:
        place.write_text("notes")
    began = time.monotonic()
    assert cli(["sync", str(tmp_path / "s")]) == 2
    assert time.monotonic() - began < 30  # MLflow alone tries for 100 s
    [line] = capsys.readouterr().err.splitlines()
    assert f"{place} is {what}, expected the file of a database" in line


def test_a_deleted_experiment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking_uri(str(tmp_path))
    make_sweep(tmp_path, "s", trials=1)
    assert cli(["sync", str(tmp_path / "s")]) == 0
    client = MlflowClient(uri)
    number = client.get_experiment_by_name("s").experiment_id
    client.delete_experiment(number)
    capsys.readouterr()
    assert cli(["sync", str(tmp_path / "s")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "experiment 's' was deleted there" in line and f"restore --experiment-id {number}" in line
    assert "nothing is lost" not in line
    client.restore_experiment(number)
    assert cli(["sync", str(tmp_path / "s")]) == 0


def test_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(str(tmp_path)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(str(tmp_path), "http://a") == "http://a"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@b")
    assert tracking_uri(str(tmp_path), "http://a") == "http://me:secret@b"
    shown = ui_command(tracking_uri(str(tmp_path)), "7")
    assert shown.startswith("open http://b/#/experiments/7/runs?") and "secret" not in shown
    assert "open http://127.0.0.1:5000/#/experiments/7/runs?" in ui_command(f"sqlite:///{tmp_path}/mlflow.db", "7")
    pasted = shlex.split(ui_command(f"sqlite:///{tmp_path}/my runs/mlflow.db"))
    assert pasted[1:] == ["ui", "--backend-store-uri", f"sqlite:///{tmp_path}/my runs/mlflow.db", "--port", "5000"]
    assert without_secrets("http://me:secret@b/x") == "http://b/x"
    assert without_secrets("postgresql://u:p/w@h/db and u") == "postgresql://h/db and u"
    assert without_secrets("http://u:p@ss@h/x") == "http://h/x"
    assert without_secrets("s3://b/x?token=abc&a=1") == "s3://b/x?token=...&a=1"
