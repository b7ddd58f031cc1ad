"""What a purge cannot reach: it holds nothing up, is never lost, is said wherever the purge is, and is tried again.

Needs: nothing. The trials are written by hand (tests/support/ledgers.py); what is around them is real, MLflow too.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from icu_ray.cli.main import main
from icu_ray.report.tracking.runs import SWEEP_ID_TAG
from icu_ray.requests import judging
from icu_ray.requests.ledger import Book, writing
from icu_ray.requests.ledger_texts import TEXTS, read_state
from icu_ray.requests.purge import purge
from icu_ray.requests.run_requests import run
from icu_ray.requests.undo import undo
from icu_ray.requests.verify_ledger import verify
from icu_ray.storage.results import Provenance, to_json
from icu_ray.storage.trial_files import Sweep
from tests.support.ledgers import answering, enter, made, trial


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One request that is done."""
    monkeypatch.setattr(judging, "ask", answering())
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = made(tmp_path)
    enter(folder, 0)
    assert run(folder, forget=trial()).code == 0
    return folder


def told(capsys: Any, *words: Any) -> tuple[dict[str, Any], int]:
    capsys.readouterr()
    code = main(["requests", *map(str, words), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found, code


def page(ledger: Path, request: str = "r1") -> str:
    return (ledger / "evidence" / request / "record.html").read_text()


@pytest.fixture
def server(ledger: Path, tmp_path: Path) -> Path:
    """The file of MLflow's database, which is away for now, with the run that the ledger's sweep has sent there."""
    (tmp_path / "away").mkdir()
    client = MlflowClient(*[f"sqlite:///{tmp_path / 'away' / 'mlflow.db'}"] * 2)
    experiment = client.create_experiment("run-1", artifact_location=(tmp_path / "artefacts").as_uri())
    client.create_run(experiment, tags={SWEEP_ID_TAG: "s1"})
    place = tmp_path / "server"
    place.write_text("a file stands where a folder is needed")
    (run_folder,) = (ledger / "work").glob("run-*")
    config = {"tracking": {"enabled": True, "uri": f"sqlite:///{place / 'mlflow.db'}"}}
    made_by = Provenance("0.1", "c0ffee", False, "", "", {}, {})
    (run_folder / "sweep.json").write_bytes(to_json(asdict(Sweep("s1", run_folder.name, 1.0, config, (), made_by))))
    return place / "mlflow.db"


def comes_back(server: Path) -> MlflowClient:
    server.parent.unlink()
    shutil.copytree(server.parent.with_name("away"), server.parent)
    return MlflowClient(*[f"sqlite:///{server}"] * 2)


def killed_before_its_end(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A purge that has deleted everything and is killed before its last entry."""
    real = Book.append

    def dies(self: Book, kind: str, entry: Any) -> Any:
        if kind == "purged":
            raise KeyboardInterrupt
        return real(self, kind, entry)

    with monkeypatch.context() as patched:
        patched.setattr(Book, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            purge(ledger, days=0.0)


def test_what_mlflow_has_is_not_lost_by_a_kill_and_is_tried_again(
    ledger: Path, server: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    killed_before_its_end(ledger, monkeypatch)
    assert not list((ledger / "work").glob("run-*"))
    purged, code = told(capsys, "purge", ledger, "--after", "0d")
    assert code == 1 and purged["requests"] == ["r1"], purged
    (place,) = purged["unreached"]
    assert "server/mlflow.db" in place and "= s1" in place
    # It is said wherever the purge is.
    checked, code = told(capsys, "verify", ledger)
    assert code == 1 and checked["ok"] and checked["troubles"] == []
    assert [each for each in checked["remarks"] if place in each and "could not reach" in each]
    assert told(capsys, "show", ledger, "r1")[0]["not_reached"] == [place]
    assert told(capsys, "list", ledger)[0]["requests"][0]["not_reached"] == [place]
    assert main(["requests", "list", str(ledger)]) == 0
    assert "texts purged, but 1 place NOT reached" in capsys.readouterr().out
    assert main(["requests", "show", str(ledger), "r1"]) == 0
    assert f"NOT reached by a purge, its texts may still lie there: {place}" in capsys.readouterr().out
    assert "its texts are purged; NOT reached" in page(ledger) and "= s1" in page(ledger)
    # A request that came later has nothing there.
    enter(ledger, 1)
    assert run(ledger, forget=trial()).code == 0
    purged, code = told(capsys, "purge", ledger, "--after", "0d")
    assert code == 1 and purged["requests"] == ["r2"] and purged["unreached"] == [place]
    assert told(capsys, "show", ledger, "r2")[0]["not_reached"] == [] and "NOT reached" not in page(ledger, "r2")
    # The entry of its purge names both, so a bundle of it has the hash alone.
    assert main(["requests", "bundle", str(ledger), "r2", str(ledger.parent / "r2.zip")]) == 0
    with zipfile.ZipFile(ledger.parent / "r2.zip") as archive:
        chain = archive.read("chain.jsonl")
    assert b'"r2"' in chain and b'"r1"' not in chain
    # The next purge tries it again, also where nothing is due.
    client = comes_back(server)
    purged, code = told(capsys, "purge", ledger)
    assert code == 0 and purged["requests"] == [] and purged["unreached"] == []
    assert any("1 runs" in each for each in purged["places"])
    assert not client.search_runs([each.experiment_id for each in client.search_experiments()])
    checked, code = told(capsys, "verify", ledger)
    assert code == 0 and checked["remarks"] == [] and "NOT reached" not in page(ledger)


def test_what_is_deleted_by_hand_is_said_so(ledger: Path, server: Path, capsys: Any) -> None:
    assert purge(ledger, days=0.0)["unreached"]
    entries = len(read_state(ledger).unreached)
    assert told(capsys, "purge", ledger)[1] == 1 and len(read_state(ledger).unreached) == entries == 1
    purged, code = told(capsys, "purge", ledger, "--deleted-by-hand")
    assert code == 0 and purged["unreached"] == [] and "= s1" in purged["by_hand"][0]
    assert told(capsys, "verify", ledger)[1] == 0 and read_state(ledger).unreached == ()


@pytest.fixture
def stuck(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a run's folder that nobody here may delete, as one of another user (root may delete any)."""
    (run_folder,) = (ledger / "work").glob("run-*")
    file = run_folder / "logs" / "stuck"
    file.parent.mkdir()
    file.write_text("of another user")
    real = os.unlink

    def unlink(path: Any, **more: Any) -> None:
        if Path(path).name == "stuck":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(os, "remove", unlink)
    return file


def test_a_file_that_cannot_be_deleted_holds_nothing_up(
    ledger: Path, stuck: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    name = str(stuck.parents[1].relative_to(ledger))
    purged, code = told(capsys, "purge", ledger, "--after", "0d")
    assert (
        code == 1
        and purged["requests"] == ["r1"]
        and purged["unreached"] == [f"{name}: Permission denied (logs/stuck)"]
    )
    # All the rest is gone.
    assert [path for path in (ledger / "work").rglob("*") if path.is_file()] == [stuck]
    assert not list((ledger / TEXTS).glob("*")) and read_state(ledger).requests["r1"].purged
    assert told(capsys, "verify", ledger)[1] == 1
    assert told(capsys, "purge", ledger, "--deleted-by-hand")[1] == 1  # it is there
    enter(ledger, 1)
    assert run(ledger, forget=trial()).code == 0
    assert undo(ledger, "r2")["back_to"] == 1
    monkeypatch.undo()
    purged, code = told(capsys, "purge", ledger)
    assert code == 0 and name in purged["places"] and not stuck.exists()
    assert told(capsys, "verify", ledger)[1] == 0


def test_what_stays_of_one_request_is_still_its_own_after_the_purge_of_another(ledger: Path, stuck: Path) -> None:
    assert purge(ledger, days=0.0)["unreached"]
    enter(ledger, 1)
    assert run(ledger, forget=trial()).code == 0
    assert purge(ledger, days=0.0)["unreached"]
    state = read_state(ledger)
    assert stuck.exists() and state.not_reached("r1") and state.not_reached("r2")


def test_a_stuck_text_is_named_until_a_purge_has_deleted_it(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, real = ledger / TEXTS / "r1.jsonl", os.unlink

    def unlink(path: Any, **more: Any) -> None:
        if Path(path).name == text.name:
            raise PermissionError(13, "Permission denied")
        real(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", unlink)
        assert purge(ledger, days=0.0)["unreached"]
    (remark,) = verify(ledger).remarks
    assert "may still lie there: texts/r1.jsonl" in remark and remark.endswith("'purge' tries it again")
    enter(ledger, 1)  # a writer leaves it to the purge, which enters that it is gone
    assert text.exists() and read_state(ledger).not_reached("r1")
    assert purge(ledger, days=0.0)["unreached"] == [] and not text.exists() and not verify(ledger).unreached


def test_a_text_or_a_model_that_cannot_be_deleted_is_named_too(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    enter(ledger, 1)
    assert run(ledger, forget=trial()).code == 0
    names, real = {"r1.jsonl", "model.safetensors"}, os.unlink

    def unlink(path: Any, **more: Any) -> None:
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        real(path, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    purged, code = told(capsys, "purge", ledger, "--after", "0d")
    assert code == 1 and (ledger / TEXTS / "r1.jsonl").is_file()
    assert any(each.startswith("texts/r1.jsonl: Permission denied") for each in purged["unreached"])
    assert any(each.startswith("versions/1/model/: still knew r2; not deleted") for each in purged["unreached"])
    checked, code = told(capsys, "verify", ledger)
    assert code == 1 and checked["troubles"] == []
    assert any("versions/1/model" in each for each in told(capsys, "show", ledger, "r2")[0]["not_reached"])
    enter(ledger, 2)  # the ledger can still be written
    names.clear()
    purged, code = told(capsys, "purge", ledger)
    assert code == 0 and not (ledger / TEXTS / "r1.jsonl").exists()
    assert not (ledger / "versions" / "1" / "model").exists() and told(capsys, "verify", ledger)[1] == 0


def test_a_model_behind_a_link_is_named_until_it_is_gone(
    ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    enter(ledger, 1)
    assert run(ledger, forget=trial()).code == 0
    model, elsewhere = ledger / "versions" / "1" / "model", tmp_path / "moved"
    shutil.move(model, elsewhere)
    model.symlink_to(elsewhere)
    killed_before_its_end(ledger, monkeypatch)
    assert not model.is_symlink()
    for words in ([], ["--deleted-by-hand"]):
        purged, code = told(capsys, "purge", ledger, *words)
        assert code == 1 and [each for each in purged["unreached"] if "it is a link to" in each]
        assert elsewhere.is_dir()  # it is not the ledger's to delete
    shutil.rmtree(elsewhere)
    assert told(capsys, "purge", ledger)[1] == 0 and told(capsys, "verify", ledger)[1] == 0


def test_a_run_whose_settings_cannot_be_read_is_named(ledger: Path, capsys: Any) -> None:
    (run_folder,) = (ledger / "work").glob("run-*")
    (run_folder / "sweep.json").mkdir()
    purged, code = told(capsys, "purge", ledger, "--after", "0d")
    assert code == 1 and not run_folder.exists()
    assert f"whether runs of {run_folder.name} were sent to MLflow is not known" in purged["unreached"][0]
    assert told(capsys, "purge", ledger, "--deleted-by-hand")[1] == 0 and told(capsys, "verify", ledger)[1] == 0


def test_ledgers_from_before_say_what_was_not_reached(ledger: Path, capsys: Any) -> None:
    with writing(ledger) as book:
        book.append("purge started", {"requests": ["r1"], "versions": []})
        entry = {
            "requests": ["r1"],
            "versions": [],
            "places": [],
            "unreached": [
                "MLflow at http://away: runs of run-1",
                "MLflow at http://away: registry entries 1, whose models are deleted (away)",
            ],
        }
        (ledger / TEXTS / "r1.jsonl").unlink()
        book.append("purged", entry)
    (remark,) = verify(ledger).remarks
    assert "MLflow at http://away: runs of run-1" in remark and "delete it, then 'purge --deleted-by-hand'" in remark
    assert told(capsys, "verify", ledger)[1] == 1
    assert told(capsys, "purge", ledger, "--deleted-by-hand")[1] == 0 and told(capsys, "verify", ledger)[1] == 0
