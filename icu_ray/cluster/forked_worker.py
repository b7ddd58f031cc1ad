"""What Ray runs, in place of its own setup_worker.py, for each worker of a Ray that has a fork server.

It hands its arguments, environment, folder and open files to the server (cluster/fork_server.py), whose fork goes on as
the worker, and ends. Where nobody answers it does what Ray's own script does. It runs once for every process, so it
imports next to nothing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib.util import find_spec

SOCKET = "ICU_RAY_FORK_SERVER"
"""Environment variable: the path of the server's socket."""


def main() -> None:
    """Have a worker started; the arguments are those of Ray's setup_worker.py."""
    path = os.environ.get(SOCKET)
    if path is None or not forked(path):
        ray = find_spec("ray")
        assert ray is not None and ray.origin is not None
        script = os.path.join(os.path.dirname(ray.origin), "_private", "workers", "setup_worker.py")
        os.execv(sys.executable, [sys.executable, script, *sys.argv[1:]])


def forked(path: str) -> bool:
    """Whether the server at this socket has made a process of what this one was told."""
    told = json.dumps({"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.connect(path)
            socket.send_fds(server, [len(told).to_bytes(8, "big")], [0, 1, 2])
            server.sendall(told)
            return server.recv(1) == b"1"
    except OSError:
        return False


if __name__ == "__main__":
    main()
