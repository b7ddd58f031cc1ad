"""Folders of runs that were killed are removed by the next one; those of runs that live are not, wherever they live.

Needs: root for one of its tests.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from icu_ray.cluster.temp_folder import temp_folder
from icu_ray.storage.processes import is_gone, scratch_folder, this_process

ROOT = Path(__file__).parents[2]
CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc")
"""A process namespace of its own, with the same /tmp."""
HOLDER = """
from icu_ray.cluster.temp_folder import temp_folder
from icu_ray.storage.processes import scratch_folder, this_process
with temp_folder(None) as ray, scratch_folder() as scratch:
    print(this_process(), ray, scratch, flush=True)
    input()
"""


@contextlib.contextmanager
def holder(folder: Path, *within: str) -> Iterator[tuple[str, Path, Path]]:
    """A process with a folder for Ray and a scratch folder: its name, and the two; killed at the end of the block."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*within, sys.executable, "-c", HOLDER],
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


def test_a_live_process_of_another_namespace_keeps_its_folders(shared: Path) -> None:
    if subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a process namespace (root with CAP_SYS_ADMIN)")
    with holder(shared, *CONTAINER) as (name, *kept):
        assert not is_gone(name)
        with temp_folder(None), scratch_folder():
            assert all(folder.is_dir() for folder in kept)
        # Nor does it take ours for those of one that has ended.
        with holder(shared) as (_, *ours), holder(shared, *CONTAINER):
            assert all(folder.is_dir() for folder in ours)


def test_a_number_that_is_used_again_is_another_process() -> None:
    mine = this_process()
    where, number, began = mine.rsplit("-", 2)
    assert not is_gone(mine)
    assert is_gone(f"{where}-{number}-{int(began) - 1}")
    for unknown in ("", number, f"elsewhere-{number}-1", f"-{number}-1", f"{where}-x-1", f"{where}-{number}"):
        assert not is_gone(unknown)
