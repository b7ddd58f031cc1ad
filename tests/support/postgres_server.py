"""A real PostgreSQL of Debian, for tests and benchmarks, on a port and in a folder of its own."""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.free_ports import free_port


def missing() -> str:
    """Why there can be none here, '' where there can."""
    if not glob.glob("/usr/lib/postgresql/*/bin/initdb"):
        return "needs PostgreSQL (apt-get install postgresql), which is not here"
    if importlib.util.find_spec("psycopg") is None:
        return "needs psycopg (pip install 'icu-ray[postgres]'), which is not here"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "needs runuser, for PostgreSQL refuses to run as root"
    return ""


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The address of an empty database 'mlflow'."""
    binaries = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
    data, port = folder / "postgres", free_port()
    data.mkdir()
    prefix: Sequence[str] = ()
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(data, owner.pw_uid, owner.pw_gid)
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == 0 and parent != Path("/"):
                parent.chmod(parent.stat().st_mode | 0o011)  # may be passed through, not read
        prefix = ("runuser", "-u", "postgres", "--")

    def run(*command: str) -> None:
        subprocess.run([*prefix, str(binaries / command[0]), *command[1:]], check=True, capture_output=True, cwd="/")

    run("initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    run("pg_ctl", "-D", str(data), "-o", options, "-l", str(data / "log"), "-w", "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "mlflow")
        yield f"postgresql://postgres@127.0.0.1:{port}/mlflow"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop")
