"""`icu-ray status` on sweeps as trials leave them, `icu-ray doctor` on this machine, and the help of every command.

Needs: a Ray of its own.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icu_ray.cli.main import main as cli
from icu_ray.cli.main import make_parser
from icu_ray.data.table_files import READERS
from icu_ray.services.doctor import Finding, examine
from icu_ray.storage.results import Beat, EpochRecord, to_json
from icu_ray.storage.trial_files import TrialPaths, write_beat, write_events
from tests.support.free_ports import free_port
from tests.support.report_case import BEFORE, Cell, scores, write_sweep

ROOT = Path(__file__).parents[2]
CHECKS = (
    *("Python", "packages", "machine", "storage", "shared memory"),
    *("GPU", "DeepSpeed", "model hub", "MLflow", "Ray"),
)
CELLS = [
    Cell(final=(0.55, 0.04, 24.0, 3.8)),
    Cell(beta=0.5, status="running", epochs=2, final=(0.7, 0.2, 22.0, 4.0)),
    Cell(beta=2.0, status=None),
    Cell(alpha=1.0, status="failed", reason="hung: no epoch ended"),
    Cell(alpha=0.2, status="not_forgotten", epochs=30),
]


def rows(output: str) -> dict[str, str]:
    """Lines of the table by trial, blanks made one."""
    return {line.split()[0]: " ".join(line.split()[1:]) for line in output.splitlines() if line.startswith("icu-125m")}


def test_status_of_a_running_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path, "run", CELLS)
    write_beat(str(tmp_path), "run", "running")
    assert cli(["status", str(folder)]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[0] == "run: running"
    assert rows(output) == {
        "icu-125m-s0-a0.5-b1.0": "forgotten 4/30 55.0 4.0 0",
        "icu-125m-s0-a0.5-b0.5": "running 2/30 70.0 20.0 0",
        "icu-125m-s0-a0.5-b2.0": "not started",
        "icu-125m-s0-a1.0-b1.0": "failed 4/30 55.0 4.0 0",
        "icu-125m-s0-a0.2-b1.0": "not forgotten 30/30 55.0 4.0 0",
    } | {"icu-125m-s0-a1.0-b1.0:": "failed: hung: no epoch ended"}
    assert "1 forgotten, 1 running, 1 not started, 1 failed, 1 not forgotten; first started " in output

    assert cli(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sweep"], found["driver"], found["unreadable"]) == ("run", "running", [])
    assert [trial["state"] for trial in found["trials"]] == [
        *("finished", "running", "not started", "failed", "not_forgotten")
    ]
    assert [trial["epoch"] for trial in found["trials"]] == [4, 2, 0, 4, 30]
    assert [trial["ma"] for trial in found["trials"]] == [pytest.approx(0.55), 0.7, None, *[pytest.approx(0.55)] * 2]
    assert [trial["reason"] for trial in found["trials"]] == ["", "", "", "hung: no epoch ended", ""]


def test_status_of_a_preparation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path, "run", [Cell(status=None)])
    under_way = ("stand-in small: epoch 4, MA 0.31, 34 %", "pairs: embedding, 70 %")
    write_beat(str(tmp_path), "run", "running", under_way)
    assert cli(["status", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == ["run: running", *(f"  {line}" for line in under_way)]
    assert cli(["status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["under_way"] == list(under_way)

    # A driver that was killed in the middle of it does nothing now.
    (folder / "beat.json").write_bytes(to_json(asdict(Beat(time.time() - 1000, "running", under_way=under_way))))
    assert cli(["status", str(folder)]) == 0
    assert "embedding" not in capsys.readouterr().out
    assert cli(["status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["under_way"] == []


def test_status_says_nothing_of_trials_outside_the_plan_as_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier config left in the folder: one trial under way, one with a result."""
    write_sweep(tmp_path, "run", CELLS[:2])
    folder = write_sweep(tmp_path, "run", CELLS[2:3])
    write_beat(str(tmp_path), "run", "running")
    assert cli(["status", str(folder)]) == 0
    output = capsys.readouterr().out
    assert rows(output) == {"icu-125m-s0-a0.5-b2.0": "not started"}
    assert output.splitlines()[-2].startswith("1 not started; first started ")
    assert output.splitlines()[-1] == (
        "not in the plan, left by an earlier config: icu-125m-s0-a0.5-b0.5 (interrupted), "
        "icu-125m-s0-a0.5-b1.0 (forgotten)"
    )
    assert cli(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["trials"]
    assert [(trial["planned"], trial["state"]) for trial in found] == [
        *((True, "not started"), (False, "interrupted"), (False, "finished"))
    ]


def test_status_of_other_drivers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path, "run", CELLS[:2])
    for beat, said in (
        (None, "not known to be running"),
        (Beat(time.time(), "finished"), "finished"),
        (Beat(time.time(), "failed"), "ended, with trials that failed or are missing"),
        (Beat(time.time() - 1000, "running"), "interrupted or killed; run the same command again to continue"),
    ):
        if beat is not None:
            (folder / "beat.json").write_bytes(to_json(asdict(beat)))
        assert cli(["status", str(folder)]) == 0
        output = capsys.readouterr().out
        assert output.splitlines()[0] == f"run: {said}"
        assert "first started" not in output
    assert rows(output)["icu-125m-s0-a0.5-b0.5"].startswith("interrupted 2/30")

    # Nothing has started yet, and yet there is something to see; a report would have nothing to say.
    folder = write_sweep(tmp_path, "early", [Cell(status=None)])
    write_beat(str(tmp_path), "early", "running")
    assert cli(["status", str(folder)]) == 0
    assert rows(capsys.readouterr().out) == {"icu-125m-s0-a0.5-b1.0": "not started"}


def test_status_of_broken_files_and_unknown_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path, "run", CELLS[:2])
    broken = folder / "trials" / CELLS[1].trial_id / "events.jsonl"
    broken.write_text("no JSON\n" + broken.read_text())
    assert cli(["status", str(folder)]) == 0
    output = capsys.readouterr().out
    assert rows(output)["icu-125m-s0-a0.5-b0.5"] == "unreadable"
    assert rows(output)["icu-125m-s0-a0.5-b1.0"].startswith("forgotten 4/30")
    assert str(broken) in output.replace("\n", "")
    assert cli(["status", str(folder), "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["unreadable"]
    assert str(broken) in line

    for unknown in (tmp_path / "nosuch", tmp_path, folder / "sweep.json"):
        assert cli(["status", str(unknown)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1
        missing = not list(unknown.glob("*"))
        said = "no such folder, or nothing in it" if missing else "holds no trials"
        said = "is a file" if unknown.is_file() else said
        assert f"{unknown}: {said}" in captured.err and "; expected the folder of a sweep" in captured.err


@pytest.mark.parametrize("as_json", [False, True])
def test_status_follows_until_the_driver_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setattr("icu_ray.cli.status.REFRESH_SECONDS", 0.05)
    folder = write_sweep(tmp_path, "run", CELLS[1:2])
    write_beat(str(tmp_path), "run", "running")

    paused: list[float] = []

    def drive(seconds: float) -> None:
        """What the driver does while the command pauses for the second and the fourth time."""
        paused.append(seconds)
        if len(paused) == 2:
            now = scores(0.4, 0.01, 25.0, 3.9)
            history = [EpochRecord(0, 4, BEFORE), *(EpochRecord(epoch, 1, now) for epoch in (1, 2, 3))]
            write_events(TrialPaths.of(str(tmp_path), "run", CELLS[1].trial_id), history)
        elif len(paused) == 4:
            write_beat(str(tmp_path), "run", "interrupted")

    monkeypatch.setattr("icu_ray.cli.status.time", SimpleNamespace(sleep=drive, monotonic=time.monotonic))
    assert cli(["status", str(folder), "--follow", *(["--json"] if as_json else [])]) == 0
    assert len(paused) == 4 and min(paused) >= 0.05  # it waited for the end
    output = capsys.readouterr().out
    if as_json:
        told = [json.loads(line) for line in output.splitlines()]
        assert [(each["driver"], each["trials"][0]["epoch"]) for each in told] == [
            *(("running", 2), ("running", 3), ("interrupted", 3))
        ]
    else:
        first, last = output.split("run: ")[1:]
        assert first.startswith("running\n") and rows(first)["icu-125m-s0-a0.5-b0.5"] == "running 2/30 70.0 20.0 0"
        assert last.startswith("interrupted") and rows(last)["icu-125m-s0-a0.5-b0.5"] == "interrupted 3/30 40.0 1.0 1"


def doctor(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """icu-ray doctor in a folder of its own."""
    mine = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    environment = {**mine, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables}
    command = [sys.executable, "-m", "icu_ray.cli", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_doctor_on_this_machine(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json")
    findings = {found["what"]: Finding(**found) for found in json.loads(done.stdout)}
    assert tuple(findings) == CHECKS
    assert done.returncode == int(any(found.state == "bad" for found in findings.values()))
    for found in findings.values():
        assert bool(found.remedy) == (found.state != "ok"), found
    assert findings["packages"].state == "ok"
    assert f"torch {importlib.metadata.version('torch')}" in findings["packages"].found
    assert findings["storage"].state != "bad" and findings["DeepSpeed"].state != "bad"
    assert "sqlite:///" in findings["MLflow"].found
    assert findings["model hub"].state == "note" and "mirror" in findings["model hub"].remedy
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing


def test_doctor_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    port = free_port()
    wrong = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "MLFLOW_TRACKING_URI": f"http://user:canary@127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "no_proxy": "127.0.0.1",
    }
    done = doctor(tmp_path, "--storage", "file/runs", **wrong)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr and "canary" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    states = {line[5:20].strip(): line[:5].strip() for line in lines if not line.startswith(" ")}
    assert tuple(states) == CHECKS
    assert states["storage"] == states["Ray"] == "bad"
    assert states["MLflow"] == states["model hub"] == "note"
    said = {line[5:20].strip(): (line[20:], after.strip()) for line, after in itertools.pairwise(lines)}
    assert said["storage"] == (
        f"file/runs: {tmp_path}/file is a file, expected a folder",
        "set storage to a folder or URL that can be written",
    )
    assert said["MLflow"][0] == f"http://127.0.0.1:{port} does not answer (Connection refused)"
    assert "icu-ray sync" in said["MLflow"][1]
    assert said["Ray"][0] == f"127.0.0.1:{port} does not answer (Connection refused)"
    assert "RAY_ADDRESS" in said["Ray"][1]
    assert said["model hub"][0] == f"http://127.0.0.1:{port} does not answer (Connection refused)"


@contextlib.contextmanager
def mlflow_server(password: str) -> Iterator[str]:
    """Answers like MLflow with basic authentication before it; its host and port."""
    wanted = {f"Basic {base64.b64encode(f'user:{password}'.encode()).decode()}", f"Bearer {password}"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" and self.headers.get("Authorization") in wanted else 401)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def look(what: str, **arguments: str) -> Finding:
    return next(finding for finding in examine(**arguments) if finding.what == what)


def test_doctor_asks_mlflow_with_the_credentials_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with mlflow_server("pass/w@rd") as host:
        refused = look("MLflow", tracking=f"http://{host}")
        assert refused.state == "note" and refused.found == f"http://{host} answers 401 Unauthorized"
        assert "MLFLOW_TRACKING_USERNAME" in refused.remedy
        answers = Finding("ok", "MLflow", f"http://{host} answers")
        assert look("MLflow", tracking=f"http://user:pass%2Fw%40rd@{host}/") == Finding(
            "ok", "MLflow", f"http://{host}/ answers"
        )
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", "user")
            patch.setenv("MLFLOW_TRACKING_PASSWORD", "pass/w@rd")
            assert look("MLflow", tracking=f"http://{host}") == answers
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_TOKEN", "pass/w@rd")
            assert look("MLflow", tracking=f"http://{host}") == answers


@pytest.mark.parametrize(
    "uri", ["http://", "http://u:canary@[x", "http://u:canary@h:port/", "./mlruns", "file:///tmp/mlruns"]
)
def test_doctor_lives_through_addresses_that_are_none(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = look("MLflow", tracking=uri)
    assert found.state == "note" and found.remedy
    assert "canary" not in found.found + found.remedy


@pytest.mark.parametrize("storage", ["nosuch://bucket/runs", "/proc/runs", f"{__file__}/runs"])
def test_doctor_finds_a_storage_that_cannot_be_written(storage: str) -> None:
    found = look("storage", storage=storage)
    assert found.state == "bad" and found.found.startswith(storage) and found.remedy


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from walk(below)


def test_every_option_says_what_it_means_and_its_default() -> None:
    modes = argparse._StoreTrueAction | argparse._StoreConstAction | argparse._VersionAction
    for parser in walk(make_parser()):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
                continue
            name = f"{parser.prog} {'/'.join(action.option_strings) or action.metavar or action.dest}"
            said = "" if action.help is None else " ".join((action.help % {"prog": parser.prog}).split())
            assert len(said.partition(" (default")[0].split()) >= 2, name
            if isinstance(action, modes) or action.required:
                continue  # nothing happens without it, or there is no doing without it
            assert "(default: " in said, name
            if isinstance(action.default, str | int | float) and action.default != "":
                assert f"(default: {action.default}" in said, name


def test_what_stands_for_a_value_says_more_than_the_option() -> None:
    """Not `--beta BETA`: the help then says twice what the option is called and never what it takes."""
    for parser in walk(make_parser()):
        for action in parser._actions:
            if action.option_strings and action.nargs != 0 and not action.choices:
                names = {option.lstrip("-").replace("-", "_").upper() for option in action.option_strings}
                assert (action.metavar or action.dest.upper()) not in names, f"{parser.prog} {action.option_strings}"


def test_a_file_that_is_read_by_its_ending_is_named_with_all_endings() -> None:
    said = [action.help for parser in walk(make_parser()) for action in parser._actions if action.help]
    naming = [text for text in said if ".csv" in text]
    assert len(naming) >= 4
    assert [text for text in naming if any(ending not in text for ending in READERS)] == []


def test_every_command_shows_an_example() -> None:
    parsers = list(walk(make_parser()))
    assert len(parsers) > 18
    for parser in parsers:
        _, found, examples = parser.format_help().partition("\nexample:\n")
        # They are of this command, or for a group of commands of those below it.
        assert found and f" {parser.prog} " in examples.splitlines()[0], parser.prog


def test_overrides_may_stand_behind_options(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*arguments: str) -> Any:
        assert cli(["plan", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    first = planned("quickstart", "samples=[0]", "name=one")
    assert planned("quickstart", "--json", "samples=[0]", "name=one") == first
    assert len(planned("quickstart", "samples=[0, 1]")["trials"]) == 2 * len(first["trials"])
    for wrong in (["plan", "quickstart", "--jsn", "a=1"], ["plan", "a=1", "--json", "more"], ["status", "x", "y=1"]):
        with pytest.raises(SystemExit) as left:
            cli(wrong)
        assert left.value.code == 2
        assert "unrecognized arguments" in capsys.readouterr().err
