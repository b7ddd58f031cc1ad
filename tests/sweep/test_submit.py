"""`icu-ray submit` against a real Ray head with job server and token authentication, from a fresh checkout.

Needs: a Ray head with its job server, git.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cli.main import main as cli
from icu_ray.storage.trial_files import TrialPaths, read_events, read_result, read_sweep, trial_ids
from icu_ray.sweep.submit import entrypoint
from tests.support.ray_head import Head, ray_head

ROOT = Path(__file__).parents[2]
PASSWORD = f"canary-{secrets.token_hex(8)}"
CONFIG = """\
name: t
data: {source: synthetic, records: 48, sample_size: 6, heldout: 6}
samples: [0]
columns: {length: 48, prefix_start: 16, suffix_start: 32}
models:
  - {name: small, standin: {size: small, vocabulary: 600, target_repeats: 8}}
methods:
  - {name: icu, cells: [[0.5, 1.0]]}
optim: {lr: 1.0e-5}
train: {batch_size: 4}
el: {ngram: 5}
stop: {max_epochs: 40, ma: 0.0, el: 0.0}
pairs: {encoder: bundled}
filter: {encoder: bundled, encoder_layer: 6}
"""


@dataclass(frozen=True)
class Case:
    """A head, a checkout to submit from, where results go, and the checkout's commit."""

    head: Head
    checkout: Path
    storage: Path
    commit: str

    def environment(self, token: str) -> dict[str, str]:
        """Of a shell in which a user submits: it knows the token, and an MLflow address with a password."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        uri = f"http://user:{PASSWORD}@127.0.0.1:9"
        here = {"PYTHONPATH": str(self.checkout), "RAY_AUTH_TOKEN": token, "MLFLOW_TRACKING_URI": uri}
        return {**mine, **here, "RAY_API_SERVER_ADDRESS": self.head.jobs}

    def start(self, *arguments: str, token: str | None = None) -> subprocess.Popen[str]:
        """icu-ray submit."""
        return subprocess.Popen(
            [sys.executable, "-m", "icu_ray.cli", "submit", *arguments],
            cwd=self.checkout,
            env=self.environment(token or self.head.token),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def submit(self, *arguments: str, token: str | None = None) -> tuple[int, str]:
        """icu-ray submit to its end: exit code and output."""
        process = self.start(*arguments, token=token)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def ask(self, path: str) -> Any:
        """What the job server answers itself."""
        headers = {"Authorization": f"Bearer {self.head.token}"}
        with urllib.request.urlopen(urllib.request.Request(self.head.jobs + path, headers=headers)) as answer:
            return json.load(answer)

    def job(self, name: str) -> dict[str, Any]:
        """A job as the server describes it."""
        found: dict[str, Any] = self.ask(f"/api/jobs/{name}")
        return found

    @property
    def config(self) -> tuple[str, str]:
        """Arguments of a sweep."""
        return "c.yaml", f"storage={self.storage}"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """One head for all tests; the checkout is a commit of this tree's files with a config beside them."""
    checkout, storage = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("storage")
    for name in ("icu_ray", "tune_configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".rayignore", ".gitignore"):
        shutil.copy2(ROOT / name, checkout / name)
    (checkout / "c.yaml").write_text(CONFIG)
    _git(checkout, "init", "--quiet")
    _git(checkout, "add", ".")
    _git(checkout, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "tree")
    server = {"MLFLOW_TRACKING_URI": f"http://user:{PASSWORD}@127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    server |= dict.fromkeys(("HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), PASSWORD)
    with ray_head(server) as head:
        yield Case(head, checkout, storage, _git(checkout, "rev-parse", "HEAD").strip())


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def one_line(output: str) -> str:
    lines = output.strip().splitlines()
    assert len(lines) == 1, output
    return lines[0]


def test_what_is_refused_before_anything_is_sent(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.yaml").write_text(CONFIG)
    (case.checkout / "bad.yaml").write_text(CONFIG.replace("optim:", "optmi:"))
    storage = f"storage={case.storage}"
    refused: tuple[tuple[Sequence[str], str], ...] = (
        (["bad.yaml", storage], "bad.yaml: optmi: unknown key (did you mean 'optim'?)"),
        (["c.yaml", storage, "methods.0.name=uci"], "unknown method 'uci'"),
        (["nosuch.yaml", storage], "config nosuch.yaml: no such file"),
        ([str(tmp_path / "outside.yaml"), storage], "is outside the working folder"),
        (["c.yaml"], "storage: ./runs would be in the job's own copy"),
        (["c.yaml", storage, f"tracking.uri=http://u:{PASSWORD}@host"], "tracking.uri=http://host: holds a password"),
        (["c.yaml", storage, "--env", "RAY_AUTH_TOKEN"], "--env RAY_AUTH_TOKEN: looks like a secret"),
        (["c.yaml", storage, "--env", "NOBODY_SET_THIS"], "--env NOBODY_SET_THIS: not set here"),
        (["c.yaml", storage, "--working-dir", "nowhere"], "--working-dir nowhere: no such folder"),
    )
    monkeypatch.chdir(case.checkout)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", case.head.jobs)
    for arguments, said in refused:
        assert cli(["submit", *arguments]) == 2
        output = "".join(capsys.readouterr())
        assert said in one_line(output)
        assert PASSWORD not in output
    (case.checkout / "hf_token").write_text("x")
    code, output = case.submit(*case.config)
    (case.checkout / "hf_token").unlink()
    assert code == 2
    assert f"--working-dir {case.checkout}: hf_token: this looks like keys, tokens or passwords" in one_line(output)
    assert case.ask("/api/jobs/") == []
    code, output = case.submit("--list")
    assert code == 0 and one_line(output) == f"no jobs at {case.head.jobs}"


def test_jobs_of_plain_ray_are_listed_too(case: Case) -> None:
    """One that runs and prints what a sweep prints, and one that is no sweep."""
    said = (
        r"t: 3 trials to run, 1 already done; log in x\nforgotten     a: MA low [2/4]\nepoch    b 4: MA 60.1 percent\n"
    )
    sweep = f"printf {shlex.quote(said)}; sleep 600; python -m icu_ray.sweep"
    headers = {"Authorization": f"Bearer {case.head.token}", "Content-Type": "application/json"}
    deadline = time.monotonic() + 120
    for name, command in (("plain", sweep), ("other", "echo http://u:word-0@host")):
        body = json.dumps({"entrypoint": command, "submission_id": name}).encode()
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(f"{case.head.jobs}/api/jobs/", body, headers)).close()
                break
            except urllib.error.HTTPError:  # the server answers before the agent that takes jobs is there
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)
    while "\nepoch" not in case.ask("/api/jobs/plain/logs")["logs"] or case.job("other")["status"] != "SUCCEEDED":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    asked = case.start("--list", "--json")
    code, output = case.submit("--list")
    assert code == 0 and "word-0" not in output
    listed = {job["id"]: job for job in json.loads(asked.communicate(timeout=300)[0])}
    plain, other = listed["plain"], listed["other"]
    assert {**plain, "command": "", "started": ""} == {
        "id": "plain",
        "status": "RUNNING",
        "sweep": "t",
        "command": "",
        "started": "",
        "ended": None,
        "done": 2,
        "trials": 4,
        "said": "epoch b 4: MA 60.1 percent",
    }
    assert (other["status"], other["sweep"], other["trials"], other["command"]) == (
        *("SUCCEEDED", None, None),
        "echo http://host",
    )
    assert datetime.fromisoformat(other["started"]) <= datetime.fromisoformat(other["ended"]) <= datetime.now(UTC)
    lines = output.splitlines()
    assert lines[0].split() == ["status", "job", "sweep", "started", "time"]
    at = next(number for number, line in enumerate(lines) if line.startswith("RUNNING    plain  t "))
    assert lines[at + 1].strip() == "2 of 4 trials done; epoch b 4: MA 60.1 percent"
    assert f"{'':9}  echo http://host" in lines
    code, output = case.submit("--stop", "plain")
    assert code == 0, output


@pytest.mark.parametrize(
    "value",
    [f"postgresql://u:{PASSWORD}@host/db", f"http://host/x#access_token={PASSWORD}", PASSWORD, "hf_" + "a1" * 16],
    ids=[
        "in an address",
        "in a fragment",
        "alone",
        "of a known form",
    ],  # the processes of a run must agree on the names
)
def test_a_variable_is_judged_by_its_value_too(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SETTING", value)
    monkeypatch.setenv("DATABASE_PASSWORD", PASSWORD)  # the same under a name that hides it
    (tmp_path / "c.yaml").write_text(CONFIG)
    given = ["submit", "c.yaml", f"storage={tmp_path}/runs", "--address", "http://127.0.0.1:9"]
    monkeypatch.chdir(tmp_path)
    assert cli([*given, "--env", "MY_SETTING"]) == 2
    said = one_line(capsys.readouterr().err)
    assert "--env MY_SETTING: its value holds a password or a key, which everybody" in said and value not in said
    # The config's own texts travel as well.
    (tmp_path / "c.yaml").write_text(f"{CONFIG}tracking: {{uri: 'http://u:{PASSWORD}@host'}}\n")
    assert cli(given) == 2
    said = one_line(capsys.readouterr().err)
    assert "http://host: holds a password or a key" in said and PASSWORD not in said


def test_what_lies_on_the_cluster_is_left_to_it(
    case: Case, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(case.checkout)
    models = ("models=[{name: big, source: /cluster/models/big}]", "--address", "http://127.0.0.1:9")
    assert cli(["submit", "c.yaml", f"storage={case.storage}", *models]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "/cluster/models/big: not on this machine, so models and data are checked on the cluster"
    assert "no Ray job server answers at http://127.0.0.1:9" in second
    # The keys themselves are checked here all the same.
    assert cli(["submit", "c.yaml", f"storage={case.storage}", *models, "models.0.wokers=2"]) == 2
    assert "models.0.wokers: unknown key (did you mean 'workers'?)" in one_line(capsys.readouterr().err)


def test_a_folder_of_a_data_set_may_lie_on_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    forget, pool = "hub:/cluster/tofu#forget01", "hub:/cluster/tofu#retain99"
    data = f"data: {{source: records, forget: '{forget}', pool: '{pool}'}}"
    (tmp_path / "c.yaml").write_text(CONFIG.replace(CONFIG.splitlines()[1], data))
    assert cli(["submit", "c.yaml", f"storage={tmp_path}/runs", "--address", "http://127.0.0.1:9"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{forget}: not on this machine, so models and data are checked on the cluster"
    assert "no Ray job server answers at http://127.0.0.1:9" in second


def test_the_jobs_command() -> None:
    config = ["c.yaml", "storage=/mnt/my runs"]
    assert entrypoint(config, wait=False) == "python -m icu_ray.sweep c.yaml 'storage=/mnt/my runs'"
    assert entrypoint(config, wait=True) == "python -m icu_ray.sweep c.yaml 'storage=/mnt/my runs' --wait"


def test_a_job_that_is_none(case: Case) -> None:
    asked = [case.start(option, "nosuch") for option in ("--attach", "--stop")]
    for process in asked:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 2
        assert "Job nosuch does not exist" in one_line(output)


def test_a_wrong_token_and_a_server_that_is_not_there_are_told_in_one_line(case: Case) -> None:
    code, output = case.submit(*case.config, token="wrong")
    assert code == 2
    assert "refuses: Authentication failed" in one_line(output)
    assert case.head.token not in output
    # --address wins over what the shell says, RAY_ADDRESS too.
    code, output = case.submit("--list", "--address", "http://127.0.0.1:9")
    assert code == 2
    assert "no Ray job server answers at http://127.0.0.1:9" in one_line(output)


class Line:
    """A TCP connection to the job server that can be cut, as a port-forward is."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> int:
        """Break all that are open now; how many."""
        broken, self._open = self._open, []
        for each in broken:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        return len(broken)


@pytest.mark.slow
def test_stopped_submitted_again_finished_and_plain_ray_job_submit(case: Case) -> None:
    storage = str(case.storage)

    def epochs() -> int:
        return max((len(read_events(TrialPaths.of(storage, "t", i))) for i in trial_ids(storage, "t")), default=0)

    # Stopped in mid-run: the job ends as STOPPED, whoever follows it gets 130, and what was trained is kept.
    following = case.start(*case.config, "--id", "first")
    deadline = time.monotonic() + 300
    while epochs() < 3:
        assert following.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    code, output = case.submit("--stop", "first")
    assert code == 0 and "submit its config again" in one_line(output)
    stopped, _ = following.communicate(timeout=300)
    assert following.returncode == 130, stopped
    assert case.job("first")["status"] == "STOPPED"
    assert "Interrupted. What was finished is kept" in stopped
    assert "MLFLOW_TRACKING_URI is not sent, as it holds a password" in stopped
    (trial,) = trial_ids(storage, "t")
    kept = read_events(TrialPaths.of(storage, "t", trial))[-1].epoch
    assert kept >= 2
    assert read_result(TrialPaths.of(storage, "t", trial)) is None
    assert read_sweep(storage, "t").provenance.commit == case.commit  # type: ignore[union-attr]

    # Submitted again it goes on, is followed over a line that breaks, and ends with the sweep's exit code.
    line = Line(int(case.head.jobs.rpartition(":")[2]))
    following = case.start(*case.config, "--id", "second", "--address", line.address)
    assert following.stdout is not None
    output = ""
    for text in following.stdout:
        output += text
        if "1 trial to run" in text:
            looked_at_and_left(case)
        if text.startswith("start "):
            assert line.cut()
    assert following.wait(timeout=300) == 0, output
    assert f"from epoch {kept}" in output
    result = read_result(TrialPaths.of(storage, "t", trial))
    assert result is not None and result.epochs == 40 and result.status == "not_forgotten"
    assert result.provenance is not None and result.provenance.commit == case.commit and not result.provenance.dirty
    log = case.ask("/api/jobs/second/logs")["logs"]
    told = [f"sending {case.checkout}: ", "MLFLOW_TRACKING_URI is not sent, as it holds a password; set it in the"]
    before, _, after = output.partition("submitted second\n")
    assert [line[: len(said)] for line, said in zip(before.splitlines(), told, strict=True)] == told
    assert after == log

    # Once more: there is nothing left to do.
    code, output = case.submit(*case.config, "--id", "third", "--wait")
    assert code == 0 and "0 trials to run, 1 already done" in output
    assert case.job("third")["entrypoint"] == f"python -m icu_ray.sweep {' '.join(case.config)} --wait"
    for_scripts = case.start("--list", "--json")
    code, output = case.submit("--list")
    assert code == 0
    listed = [job for job in json.loads(for_scripts.communicate(timeout=300)[0]) if job["sweep"] == "t"]
    expected = [("first", "STOPPED"), ("second", "SUCCEEDED"), ("third", "SUCCEEDED")]
    mine = [(job["id"], job["status"]) for job in listed if job["id"] != "plain"]
    assert mine == expected
    shown = [tuple(reversed(line.split()[:2])) for line in output.splitlines()]
    assert [row for row in shown if row in expected] == expected
    assert case.job("third")["metadata"] == {"sweep": "t", "job_name": "t"}

    # What only the cluster can know is refused there, and the exit code says so here.
    nowhere = "data={source: extraction, folder: nowhere}"
    code, output = case.submit(*case.config, nowhere, "--id", "refused")
    assert code == 2, output
    assert case.job("refused")["status"] == "FAILED"
    assert output.splitlines()[-1].startswith("icu_ray.sweep: data.tokens: nowhere/") and "Traceback" not in output

    # Ray's own command does it too; nobody told that job the commit, so its files speak for themselves.
    plain = subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."),
            *("--submission-id", "plainly", "--", "python", "-m", "icu_ray.sweep", *case.config),
        ],
        cwd=case.checkout,
        env={**case.environment(case.head.token), "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert plain.returncode == 0, plain.stdout + plain.stderr
    assert "0 trials to run, 1 already done" in plain.stdout
    code, output = case.submit("--list", "--json")
    [plainly] = [job for job in json.loads(output) if job["id"] == "plainly"]
    assert code == 0 and (plainly["sweep"], plainly["done"], plainly["trials"]) == ("t", 1, 1)  # from what it printed
    assert read_sweep(storage, "t").provenance.commit == files_hash(case.checkout / "icu_ray")  # type: ignore[union-attr]

    # The doctor sees that cluster.
    address = {"RAY_ADDRESS": case.head.gcs, "HF_HUB_OFFLINE": "1"}
    doctor = subprocess.run(
        [sys.executable, "-m", "icu_ray.cli", "doctor", "--storage", storage],
        env={**case.environment(case.head.token), **address},
        capture_output=True,
        text=True,
    )
    assert f"{case.head.gcs}: up to 1 node with 2 CPUs and 0 GPUs together" in doctor.stdout
    assert "http://127.0.0.1:9 does not answer (Connection refused)" in doctor.stdout

    _no_secret(case, [stopped, output, log, plain.stdout, plain.stderr, doctor.stdout, doctor.stderr])


def looked_at_and_left(case: Case) -> None:
    """Ctrl-C ends the following, not the job."""
    attached = case.start("--attach", "second")
    assert attached.stdout is not None
    while "1 trial to run" not in attached.stdout.readline():
        assert attached.poll() is None
    attached.send_signal(signal.SIGINT)
    said, _ = attached.communicate(timeout=300)
    assert attached.returncode == 130
    assert said.splitlines()[-1] == "second continues; --attach second follows it, --stop second ends it"
    assert case.job("second")["status"] == "RUNNING"


def files_hash(package: Path) -> str:
    digest = hashlib.sha256()
    for name in sorted(
        (path.relative_to(package) for path in package.glob("**/*.py")), key=lambda path: package / path
    ):
        digest.update(f"{name}".encode())
        digest.update((package / name).read_bytes())
    return "files-" + digest.hexdigest()[:16]


def _no_secret(case: Case, outputs: Sequence[str]) -> None:
    """None of the head's secrets, the token and MLflow's password among them, stands where a job can be looked at."""
    canaries = [case.head.token, PASSWORD]
    told = [*outputs, json.dumps(case.ask("/api/jobs/"))]
    assert not [text for text in told for canary in canaries if canary in text]
    files = [path for folder in (case.storage, case.head.folder) for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"sweep.json", "spec.json", "job-driver-second.log"} <= names
    found = [path for path in files for canary in canaries if canary.encode() in path.read_bytes()]
    assert not found
