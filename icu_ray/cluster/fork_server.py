"""Processes of a Ray that is started here, forked from one that has imported what they need.

A process that trains spends six seconds of a processor on imports, and every trial has processes of its own. Here one
process imports all that once, and forks whenever Ray starts a worker: that takes a tenth of a second, and the worker is
as separate from all others as before. What it changes, breaks or leaves behind is its own.

    with fork_server(folder, "icu_ray.training.preloading.preload"): ray.init(...)

Ray starts every worker through a script, setup_worker.py, whose name a node takes when it starts; for that time
forked_worker.py stands in its place. The pinned version of Ray and the tests of sweeps watch over that.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from icu_ray.cluster import forked_worker
from icu_ray.cluster.environment import environment_variables

_LOG = "fork_server.log"
_TOLD_BY_RAYLET = ("RAY_JOB_ID", "RAY_RAYLET_PID")
"""What Ray's native code reads of the environment when it is imported. So the server imports it with the first
worker's, and forks for workers that were told the same."""
_NO_JOB = "ffffffff"
"""The job of processes that Ray starts before there is any."""


@contextlib.contextmanager
def fork_server(folder: Path, preload: str) -> Iterator[None]:
    """Workers of the Ray that is started in the block are forked from a process that has called `preload`.

    folder: where its socket and log are. preload: dotted name of a function that imports and starts no thread. The
    server ends with this process, even when that is killed; its forks are Ray's.
    """
    path = folder / "forks"
    command = [sys.executable, "-m", __name__, str(path), preload]
    with (folder / _LOG).open("wb") as said:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
    from ray._private import ray_constants

    own = ray_constants.SETUP_WORKER_FILENAME
    ray_constants.SETUP_WORKER_FILENAME = forked_worker.__file__
    try:
        with environment_variables({forked_worker.SOCKET: str(path)}):
            yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = own
        server.communicate()


def serve(path: str, preload: str) -> None:
    """Fork for whoever asks at the socket, until standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks: the system forgets them
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(64)
        module, _, function = preload.rpartition(".")
        getattr(importlib.import_module(module), function)()
        served: tuple[str | None, ...] | None = None
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if listening not in ready:
                return
            asking, _ = listening.accept()
            with asking:
                try:
                    told, files = _asked(asking)
                except (OSError, ValueError):
                    continue  # whoever asked was ended meanwhile, as by a trial that was given up
                given = tuple(told["environment"].get(name) for name in _TOLD_BY_RAYLET)
                if served is None and given[0] != _NO_JOB:
                    served = given
                    _import_ray(told["environment"])
                forks = served == given
                if forks and os.fork() == 0:
                    listening.close()
                    asking.close()
                    _become(told, files)
                for file in files:
                    os.close(file)
                if forks:  # without an answer Ray's own script is run
                    with contextlib.suppress(OSError):
                        asking.sendall(b"1")


def _import_ray(environment: Mapping[str, str]) -> None:
    """Import Ray under the environment of a worker.

    Ray alone: ray.data and ray.train draw random numbers from its native generator when they are imported, and all
    forks would then draw the same ones, as names of objects among others.
    """
    with environment_variables(environment):
        import ray  # noqa: F401
    gc.collect()
    gc.freeze()  # a fork's collections leave what was imported alone, whose memory it shares as long as nobody writes
    if threading.active_count() > 1:
        raise RuntimeError(f"imports have started threads, of which a fork has none: {threading.enumerate()}")


def _asked(asking: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What forked_worker.py sends."""
    head, files, _, _ = socket.recv_fds(asking, 8, 3)
    left, parts = int.from_bytes(head, "big"), []
    while left > 0 and (part := asking.recv(left)):
        parts.append(part)
        left -= len(part)
    return json.loads(b"".join(parts)), files


def _become(told: dict[str, Any], files: list[int]) -> None:
    """Go on, in a fork, as the worker that Ray asked for, and never return."""
    code = 1
    try:
        os.setpgid(0, 0)  # Ray ends a worker with all of its group
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        np.random.seed()  # Python's own generator is seeded anew by itself
        _run_worker(told["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_worker(arguments: list[str]) -> None:
    """What Ray's setup_worker.py does, but that the worker's script is run here and not in a new Python."""
    import argparse
    import runpy

    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs

    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    own, (script, *rest) = parser.parse_known_args(arguments)
    context = RuntimeEnvContext.deserialize(own.serialized_runtime_env_context)
    update_envs(context.env_vars)
    sys.argv = [script, *rest]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:])
