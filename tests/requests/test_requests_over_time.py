"""Requests over time with real runs: two requests in a row, evidence, a purge that leaves no text, and an interruption.

Needs: a Ray of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main
from icu_ray.config import Columns, StandinConfig
from icu_ray.data.synthetic import make_records
from icu_ray.requests.ledger import FILE, read_chain
from icu_ray.requests.ledger_texts import read_state
from tests.support.ledgers import enter, made

PLANTED = [
    "Zsófia Quastenflößer-Ångström lodges beside the Gråbrødre tannery with eleven herons",
    "Þorvaldur Iñigo Czyżewski repaired the Kōenji sundial on a wet 31 February",
]
"""Sentences that stand in no other text; with letters that JSON may escape."""
SETTINGS = [
    *("--id-column", "id", "--length", "64", "--beta", "4", "--gpus", "0", "optim.lr=5e-4", "pairs.encoder=bundled"),
    *(
        "filter.encoder=bundled",
        "filter.encoder_layer=6",
        "filter.rule=never",
        "stop.max_epochs=25",
        "stop.max_ppl_ratio=2.5",
    ),
]


def write(path: Path, texts: list[str]) -> Path:
    rows = [{"id": f"{path.stem}-{number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def told(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], int]:
    """What a command prints as JSON, and its exit code."""
    capfd.readouterr()
    code = main(["requests", *map(str, words), "--json"])
    captured = capfd.readouterr()
    assert captured.out, captured.err
    return json.loads(captured.out), code


def found_in(folders: list[Path], sentence: str) -> list[str]:
    """Files that hold a long piece of a sentence as UTF-8, UTF-16 or with JSON's escapes."""
    pieces = [sentence[:40], sentence[20:60]]
    wanted = [text.encode() for piece in pieces for text in (piece, json.dumps(piece)[1:-1])]
    wanted += [piece.encode("utf-16-le") for piece in pieces]
    found = []
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and any(each in path.read_bytes() for each in wanted):
                found.append(str(path))
    return found


def run_until(ledger: Path, reached: Callable[[], bool], number: signal.Signals) -> tuple[int, str]:
    """Send a signal to a run in a process of its own once something is reached; its exit code and what it said.

    That goes to a file: the end of a pipe comes when the last process that the run has started is gone.
    """
    words = [sys.executable, "-m", "icu_ray.cli", "requests", "run", str(ledger)]
    file, until = ledger.parent / "said.txt", time.monotonic() + 300
    with file.open("wb") as sink, subprocess.Popen(words, stdout=sink, stderr=subprocess.STDOUT) as process:
        try:
            while not reached():
                assert process.poll() is None and time.monotonic() < until, file.read_text()
                time.sleep(0.05)
            process.send_signal(number)
            code = process.wait(timeout=600)
        finally:
            process.kill()
    return code, file.read_text()


def killed_at_an_epoch(ledger: Path) -> None:
    """Start a run and kill -9 its process once its trial has ended an epoch."""

    def epochs() -> int:
        return sum(len(file.read_bytes().splitlines()) for file in ledger.glob("work/run-*/trials/*/events.jsonl"))

    run_until(ledger, lambda: epochs() >= 2, signal.SIGKILL)
    assert not list(ledger.glob("work/run-*/trials/*/result.json")) and read_chain(ledger).troubles == ()


@pytest.mark.slow
def test_an_audit_that_is_interrupted_is_made_up_for(tmp_path: Path) -> None:
    """A real trial and a real attack of a tiny model; Ctrl-C comes once the trial has its result."""
    ledger = made(tmp_path, audit=["prompt"])
    enter(ledger, 0)
    ended = "work/run-*/trials/*/result.json"
    code, said = run_until(ledger, lambda: bool(list(ledger.glob(ended))), signal.SIGINT)
    assert code == 130 and "attempt 1 was interrupted. 'run' goes on with it" in said, said
    assert not list(ledger.glob("work/run-*/trials/*/audit.json")) and not (ledger / "versions").exists()
    assert read_state(ledger).requests["r1"].state == "running"
    again = [sys.executable, "-m", "icu_ray.cli", "requests", "run", str(ledger)]
    subprocess.run(again, check=True, timeout=600)
    record = json.loads((ledger / "evidence" / "r1" / "attempt-1.json").read_text())
    assert record["audit"]["run_rows"] == 2 and record["ledger"]["not_carried_out"] == {}
    # Nothing that stays names the trial, whose id is a plain hash over the texts.
    (trial,) = ledger.glob("work/run-*/trials/*")
    assert trial.name[:8] not in (ledger / FILE).read_text() + json.dumps(record)
    assert trial.parents[1].name == record["config"]["name"]


@pytest.mark.slow
def test_two_requests_and_a_purge(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from icu_ray.training.standins import build_standin

    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path / "cache"))
    texts = [" ".join(text.split()[:20]) for text in make_records(7, 0, 266, 64)]
    asked = [[PLANTED[0], *texts[:7]], [PLANTED[1], *texts[7:14]]]
    keep, heldout = texts[14:254], texts[254:]
    files = [write(tmp_path / f"forget-{number}.jsonl", each) for number, each in enumerate(asked)]
    retain, unread = write(tmp_path / "keep.jsonl", keep), write(tmp_path / "heldout.jsonl", heldout)
    settings = StandinConfig(vocabulary=1024, target_repeats=8)
    samples = dict(enumerate(asked))
    build_standin(settings, [*asked[0], *asked[1], *keep], samples, Columns(64, 32, 48), tmp_path / "model", print)
    ledger, uri = tmp_path / "ledger", f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"
    (tmp_path / "registry").mkdir()
    more = ["--retain", retain, "--heldout", unread, "--mlflow", uri, "--name", "stand-in"]
    # The sweeps of runs send nothing to MLflow unless asked to, as here, for what a purge must find there.
    more += [*SETTINGS, "tracking.enabled=true", f"tracking.uri={uri}"]
    made, code = told(capfd, "init", ledger, "--model", tmp_path / "model", *more)
    assert code == 0 and made["purge_days"] == 30 and oct((ledger / "key").stat().st_mode)[-3:] == "600"

    first, code = told(capfd, "add", ledger, files[0], "--subject", "17", "--due", "2020-01-01")
    assert code == 0 and (first["id"], first["state"], first["texts"]) == ("r1", "waiting", 8)
    assert main(["requests", "list", str(ledger)]) == 0 and "OVERDUE" in capfd.readouterr().out
    killed_at_an_epoch(ledger)
    listed, _ = told(capfd, "list", ledger)
    assert listed["requests"][0]["state"] == "running"
    checked, code = told(capfd, "verify", ledger)
    assert code == 0 and "has not ended" in " ".join(checked["remarks"])
    ran, code = told(capfd, "run", ledger)
    assert [each["attempt"] for each in ran["attempts"]] == list(range(1, len(ran["attempts"]) + 1))
    assert code == 0 and ran["current"] >= 1 and ran["mlflow"] == "", ran
    listed, _ = told(capfd, "list", ledger)
    assert listed["requests"][0]["state"] == "done" and listed["current"] == ran["current"]
    version = ledger / "versions" / str(ran["current"])
    AutoModelForCausalLM.from_pretrained(version / "model")

    told(capfd, "add", ledger, files[1], "--id", "ticket-2")
    second, code = told(capfd, "run", ledger)
    (ended, *_) = second["attempts"]
    assert "r1" in ended["asked"] and ended["asked"]["r1"]["earlier"] and ended["asked"]["r1"]["ma"] is not None
    assert ended["cost"]["ratio"] is not None and ended["cost"]["limit"] == 2.5
    assert json.loads((version / "record.json").read_text())["id"] == "r1"
    # Whether the second is acceptable follows from what was measured.
    back = ended["asked"]["r1"]["forgotten"] is not True or bool(ended["asked"]["r1"]["came_back"])
    assert (code == 1) == any(each["version"] is None for each in second["attempts"])
    if back or ended["cost"]["ratio"] > 2.5:
        assert ended["version"] is None and ended["reasons"]
    if code:
        again, code = told(capfd, "run", ledger, "--from-original")
        assert again["attempts"][0]["attempt"] > 1, again
    listed, _ = told(capfd, "list", ledger)
    states = {each["id"]: each["state"] for each in listed["requests"]}
    assert states["r1"] == "done", (second, listed)

    checked, code = told(capfd, "verify", ledger)
    assert code == 0 and checked["ok"] and checked["troubles"] == [], checked
    shown, _ = told(capfd, "show", ledger, "r1")
    assert len(shown["curve"]) >= 2 and all(point["ma"] is not None for point in shown["curve"])
    out = tmp_path / "r1.zip"
    told(capfd, "bundle", ledger, "r1", out)
    with zipfile.ZipFile(out) as archive:
        record, page = json.loads(archive.read("record.json")), archive.read("record.html").decode()
    assert record["audit"] is None and record["signature"]["value"] and record["ledger"]["head"]["number"] > 1
    assert "Not made: nobody has tried" in page and "is it forgotten" in page.lower() and "<svg" in page
    assert record["asked_by"] == "17" and record["texts"]["count"] == 8

    # Folders of Ray and of killed processes lie with the machine's temporary files.
    places = [ledger, tmp_path / "registry", tmp_path / "cache"]
    assert found_in(places, PLANTED[0]), "the planted sentence is not found where it must be: the search is blind"
    nothing, _ = told(capfd, "purge", ledger)
    assert nothing["requests"] == []
    gone, code = told(capfd, "purge", ledger, "--after", "0d")
    assert code == 0 and "r1" in gone["requests"] and str(files[0]) in gone["files"]
    assert gone["texts"] >= 8 and any("MLflow" in place for place in gone["places"]), gone
    for request, sentence in zip(("r1", "ticket-2"), PLANTED, strict=True):
        if request in gone["requests"]:
            here = [each for name in ("icu-ray-*", "icu_ray_*") for each in Path(tempfile.gettempdir()).glob(name)]
            assert found_in([*places, *here], sentence) == []
    checked, code = told(capfd, "verify", ledger)
    assert code == 0, checked
    proof, code = told(capfd, "verify", ledger, "--text", files[0])
    assert code == 0 and all(each["found"] == [f"r1/{each['id']}"] for each in proof["texts"])
    stranger = write(tmp_path / "stranger.jsonl", [texts[50]])
    assert told(capfd, "verify", ledger, "--text", stranger)[1] == 1

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    versions = client.search_model_versions("name = 'stand-in'")
    assert len(versions) == listed["current"] or len(versions) >= 1
    assert client.get_model_version_by_alias("stand-in", "current").tags["icu_ray.version"] == str(listed["current"])
    assert not os.path.exists(ledger / "work" / "store")
