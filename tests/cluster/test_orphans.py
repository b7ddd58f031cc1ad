"""Folders of runs that were killed are removed by the next one; those of runs that live are not, wherever they live.

Needs: root for one of its tests, a Ray for another.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icu_ray.cluster.temp_folder import temp_folder
from icu_ray.storage.processes import is_gone, scratch_folder, this_process

ROOT = Path(__file__).parents[2]
NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c")
HOLDER = """
from icu_ray.cluster.temp_folder import temp_folder
from icu_ray.storage.processes import scratch_folder, this_process
with temp_folder(None) as ray, scratch_folder() as scratch:
    print(this_process(), ray.parent, scratch, flush=True)
    input()
"""


WITH_RAY = """
from icu_ray.cluster.runtime import connected
with connected(cpus=1) as cluster:
    import ray
    ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())
    print("ray", cluster.temp, "-", flush=True)
    input()
"""


@contextlib.contextmanager
def holder(folder: Path, *within: str, code: str = HOLDER) -> Iterator[tuple[str, Path, Path]]:
    """A process with a folder for Ray and a scratch folder: its name, and the two; killed at the end of the block."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*within, sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        name, ray, scratch = process.stdout.readline().split()
        yield name, Path(ray), Path(scratch)
        assert process.poll() is None
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.fixture
def container() -> tuple[str, ...]:
    """What runs a command in a process namespace of its own, with the same /tmp, under a number that is free here."""
    last = int(Path("/proc/sys/kernel/pid_max").read_text()) - 2
    free = next(number for number in range(last, 1, -1) if not Path(f"/proc/{number}").exists())
    command = (*NAMESPACE, f'echo {free - 1} > /proc/sys/kernel/ns_last_pid && "$@"', "sh")
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a process namespace (root with CAP_SYS_ADMIN)")
    return command


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process and of those it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_is_removed_and_no_other_s(shared: Path) -> None:
    with holder(shared) as (lives, *kept):
        with holder(shared) as (killed, *left):
            assert not is_gone(killed)
        assert is_gone(killed) and not is_gone(lives)
        assert all(folder.is_dir() for folder in left)
        with temp_folder(None), scratch_folder():
            assert not any(folder.exists() for folder in left)
            assert all(folder.is_dir() for folder in kept)


def test_a_live_process_of_another_namespace_keeps_its_folders(shared: Path, container: tuple[str, ...]) -> None:
    with holder(shared, *container) as (name, *kept):
        assert not is_gone(name)
        with temp_folder(None), scratch_folder():
            assert all(folder.is_dir() for folder in kept)
        # Nor does it take ours for those of one that has ended.
        with holder(shared) as (_, *ours), holder(shared, *container):
            assert all(folder.is_dir() for folder in ours)


def test_a_number_that_is_used_again_is_another_process() -> None:
    mine = this_process()
    where, number, began = mine.rsplit("-", 2)
    assert not is_gone(mine)
    assert is_gone(f"{where}-{number}-{int(began) - 1}")
    for unknown in ("", number, f"elsewhere-{number}-1", f"-{number}-1", f"{where}-x-1", f"{where}-{number}"):
        assert not is_gone(unknown)


@pytest.mark.slow
def test_the_processes_of_a_killed_driver_s_ray_end_soon() -> None:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as short:  # sockets have no long names
        with holder(Path(short), code=WITH_RAY) as (_, ray, _):
            assert processes_in(ray)
        began = time.monotonic()
        while processes_in(ray):
            assert time.monotonic() - began < 120, processes_in(ray)
            time.sleep(0.2)


def processes_in(folder: Path) -> list[str]:
    """Command lines that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [line] if str(folder) in line else []
    return found
