"""A real Ray head with token authentication, on ports and in a folder of its own, with its job server or without."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.free_ports import free_ports
from tests.support.local_ray import short_folder


@dataclass
class Head:
    """gcs: address for RAY_ADDRESS; jobs: of the job server; token: the one it wants; folder: Ray's own files."""

    gcs: str
    jobs: str
    token: str
    folder: Path
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, the first time or once more at the same addresses, and wait until it answers."""
        with (self.folder / "head.txt").open("wb") as output:
            self.process = subprocess.Popen(
                self.command, env=self.environment, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
            )
        self._wait()

    def _wait(self) -> None:
        said, deadline = self.folder / "head.txt", time.monotonic() + 300
        while True:
            if self.jobs:
                asked = urllib.request.Request(
                    f"{self.jobs}/api/version", headers={"Authorization": f"Bearer {self.token}"}
                )
                with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=5):
                    return
            elif "Ray runtime started" in said.read_text():
                return
            assert self.process is not None and self.process.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.5)

    def crash(self) -> None:
        """kill -9 of Ray's own processes; those that work for a driver are left to themselves."""
        self._kill(lambda name: not name.startswith("ray::") or name.endswith("Agent"))

    def kill(self) -> None:
        """kill -9 of everything that it has started, and of itself."""
        if self.process is not None:
            self._kill(lambda name: True)

    def _kill(self, chosen: Callable[[str], bool]) -> None:
        assert self.process is not None
        # With --block all of them descend from it; ended gently they wait for one another, up to half a minute.
        ours = []
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(self.process.pid)
            ours = [each for each in (head, *head.children(recursive=True)) if chosen(each.name())]
        for each in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait(timeout=120)
        psutil.wait_procs(ours, timeout=120)
        self.process = None


@contextlib.contextmanager
def ray_head(environment: Mapping[str, str], *, jobs: bool = True) -> Iterator[Head]:
    """Start it, wait until it answers, and end its processes, by id, afterwards.

    environment: variables of the head and of all that runs there, above this process's own. jobs: with a job server,
    which is a dozen processes more.
    """
    token = secrets.token_hex(32)
    gcs, http, agent, grpc, client = free_ports(5)
    mine = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs call 'python'
    ports = {
        "port": gcs,
        "dashboard-port": http,
        "dashboard-agent-listen-port": agent,
        "dashboard-agent-grpc-port": grpc,
        "ray-client-server-port": client,
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    with short_folder() as folder:
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2", "--num-gpus=0"),
            *(f"--temp-dir={folder}", f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"),
            f"--include-dashboard={jobs}",
            *(f"--{name}={port}" for name, port in ports.items() if port or "worker" in name),
        ]
        secret = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "PYTHONUNBUFFERED": "1",
        }
        head = Head(
            f"127.0.0.1:{gcs}",
            f"http://127.0.0.1:{http}" if jobs else "",
            token,
            folder,
            command,
            {**mine, **environment, "PATH": path, **secret},
        )
        try:
            head.start()
            yield head
        finally:
            head.kill()
