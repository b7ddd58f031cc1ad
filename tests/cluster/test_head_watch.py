"""A Ray that does not come up, one that does not answer, and one that takes its driver along, are said in a line.

Needs: Rays of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from icu_ray.cluster import head_watch as module
from icu_ray.cluster.head_watch import watched_head
from tests.support.faults_case import ROOT, alive

CODE = """
from icu_ray.errors import ClusterError
from icu_ray.cluster.runtime import connected
try:
    with connected(cpus=1):
        print("connected", flush=True)
except ClusterError as error:
    print(error, flush=True)
"""


def child_of(process: int, name: bytes) -> int:
    """The process that another one has started, once there is one of this name."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == process and name in (folder / "cmdline").read_bytes():
                    return int(folder.name)
        time.sleep(0.005)
    raise AssertionError(f"no {name!r}")


def test_a_ray_that_does_not_come_up() -> None:
    """Its first process is stopped, as on a machine that has no time for it, and the patience is short."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_gcs_server_port_wait_time_s": "2"}
    environment.pop("RAY_ADDRESS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", CODE], env=environment, text=True, **pipes) as process:
        server = child_of(process.pid, b"gcs/gcs_server")
        os.kill(server, signal.SIGSTOP)
        output, _ = process.communicate(timeout=300)
    assert output.startswith("Ray did not start on this machine (") and len(output.splitlines()) == 1
    until = time.monotonic() + 60
    while alive(server):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_an_address_where_no_ray_is(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:1"}
    command = [sys.executable, "-m", "icu_ray.sweep", "quickstart", "tracking.enabled=false"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray answers there (ConnectionRefusedError: " in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


ENDING = """
import os, signal, sys
import psutil
from icu_ray.sweep.driver import message_if_killed
from icu_ray.cluster.runtime import connected

with message_if_killed("it ended at once", sys.stdout) as cancel:
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif sys.argv[1] == "cancelled":
        cancel()
        os._exit(5)
    elif sys.argv[1] == "ray":
        import ray
        with connected(cpus=1):
            (raylet,) = [each for each in psutil.Process().children(recursive=True) if each.name() == "raylet"]
            raylet.kill()
            raylet.wait()
            ray.put(bytes(1_000_000))
print("returned")
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("killed", -signal.SIGKILL, "\nit ended at once\n"),
        ("cancelled", 5, ""),
        ("ray", 1, "\nit ended at once\n"),
        ("returns", 0, "returned\n"),
    ],
)
def test_message_of_a_driver_that_was_killed(how: str, code: int, said: str) -> None:
    """'ray': the object store dies under a driver, which Ray then ends on the spot, past all that Python would do."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", ENDING, how], env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        output = process.stdout.read()  # to the end: the words come after the process has gone
        assert output.endswith(said) if how == "ray" else output == said  # Ray tells its raylet's last lines
        assert process.wait(timeout=120) == code


class Head:
    """Answers in turn, the last one for ever."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)

    def check(self) -> str | None:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_loss_is_told_once_from_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    head, told = Head("", None, "", "the head is gone"), threading.Event()
    heard: list[tuple[str, bool]] = []

    def on_loss(why: str) -> None:
        heard.append((why, threading.current_thread() is threading.main_thread()))
        told.set()

    monkeypatch.setattr(module, "_Head", lambda: head)
    with watched_head(on_loss):
        assert told.wait(60)
        time.sleep(0.1)
    assert heard == [("the head is gone", False)]


@pytest.mark.usefixtures("quick")
def test_an_error_that_a_loss_explains_waits_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nobody knows whether the cluster is gone, the error in the block may be its doing."""
    for answers, expected in (((None, None, "gone"), ["gone"]), ((None, None, ""), [])):
        heard: list[str] = []
        monkeypatch.setattr(module, "_Head", lambda answers=answers: Head(*answers))
        with pytest.raises(RuntimeError, match="an actor died"), watched_head(heard.append):
            raise RuntimeError("an actor died")
        assert heard[:1] == expected


@pytest.mark.usefixtures("quick")
def test_a_cluster_that_is_there_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(module, "_Head", lambda: Head("", None, ""))
    with watched_head(heard.append):
        time.sleep(0.2)
    assert heard == []
