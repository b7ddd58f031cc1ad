"""One driver a sweep: exclusive where the file system is, by reading back where it is not, and given up by the dead.

Needs: nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from icu_ray.storage.files import list_dir, write_atomic
from icu_ray.storage.results import SILENT_SECONDS, to_json
from icu_ray.sweep import lease
from icu_ray.sweep.lease import Held, Holder, Lease, take

ROOT = Path(__file__).parents[2]
TAKER = """
import sys, time
from pathlib import Path
from icu_ray.sweep import lease
folder, look = Path(sys.argv[1]), lease._newest
def seen(where):
    found = look(where)
    (folder / f"{sys.argv[2]}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    return found
lease._newest = seen
try:
    lease.take(sys.argv[3], "s")
    print("mine", flush=True)
    time.sleep(600)
except lease.Held as held:
    print(held.holder.process, flush=True)
"""
"""Goes on to take the sweep when all have seen that nobody has it."""


class Careless(LocalFileSystem):
    """Knows no exclusive creation, and is slow enough for two to believe that they are first."""

    protocol = "careless"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        time.sleep(0.2)
        super().pipe_file(path, value, **options)


@pytest.fixture(params=["{}", "local://{}"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lease, "PAUSE_SECONDS", 0.05)
    return str(request.param).format(tmp_path / "runs")


def leases(storage: str) -> list[str]:
    return [name for name in list_dir(f"{storage}/s") if name.startswith("driver")]


def test_a_sweep_is_one_driver_s_until_it_is_released(storage: str) -> None:
    mine = take(storage, "s")
    with pytest.raises(Held) as told:
        take(storage, "s")
    assert (told.value.holder.process, told.value.holder.host) == (os.getpid(), os.uname().nodename)
    mine.renew()
    assert take(storage, "another").number == 1
    mine.release()
    again = take(storage, "s")
    assert again.number == 2 and leases(storage) == ["driver-2.json"]
    mine.release()  # a second time, when it is another's
    with pytest.raises(Held):
        take(storage, "s")


def renewed_elsewhere(lease: Lease, seconds: float, clock: float = 0.0) -> None:
    """A lease of another machine, renewed so many seconds ago. clock: how far that machine's is ahead."""
    when = time.time() - seconds
    holder = replace(lease.holder, machine="another", process=1, renewed=when + clock)
    write_atomic(lease.url, to_json(asdict(holder)))
    os.utime(lease.url.removeprefix("local://"), (when, when))


def test_a_driver_on_another_machine_is_dead_when_it_was_silent_for_long(storage: str) -> None:
    first = take(storage, "s")
    for silent, dead in ((SILENT_SECONDS - 20, False), (SILENT_SECONDS + 1, True)):
        renewed_elsewhere(first, silent)
        if not dead:
            with pytest.raises(Held, match=f"process 1 on {first.holder.host}, since 20"):
                take(storage, "s")
    second = take(storage, "s")
    with pytest.raises(Held) as told:  # it was not dead, and hears of its successor
        first.renew()
    assert told.value.holder == second.holder
    first.release()
    second.renew()
    # The same number on this machine, but of a process before this one.
    write_atomic(second.url, to_json(asdict(replace(Holder.me(), began="7"))))
    assert take(storage, "s").number == 3
    write_atomic(f"{storage}/s/driver-9.json", b"{")  # written by nobody that could still live
    assert take(storage, "s").number == 10


@pytest.mark.parametrize("clock", [-86400.0, -300.0, 300.0, 86400.0])
def test_the_clock_of_another_machine_tells_nothing(storage: str, clock: float) -> None:
    first = take(storage, "s")
    renewed_elsewhere(first, 1.0, clock)
    with pytest.raises(Held):
        take(storage, "s")
    renewed_elsewhere(first, SILENT_SECONDS + 1, clock)
    assert take(storage, "s").number == 2
    assert [path.name for path in Path(storage.removeprefix("local://"), "s").iterdir()] == ["driver-2.json"]


@pytest.mark.parametrize("clock", [-86400.0, 86400.0])
def test_where_the_storage_tells_no_time_a_clock_ahead_holds_nobody(
    storage: str, clock: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def modified(url: str) -> float:
        raise NotImplementedError

    monkeypatch.setattr(lease, "modified", modified)
    first = take(storage, "s")
    renewed_elsewhere(first, 1.0)
    with pytest.raises(Held):
        take(storage, "s")
    renewed_elsewhere(first, 1.0, clock)
    assert take(storage, "s").number == 2


@pytest.fixture
def takers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that all want one sweep."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_of_many_at_once_one_has_it_and_a_killed_one_stands_in_nobody_s_way(
    tmp_path: Path, takers: list[subprocess.Popen[str]]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number in range(4):
        command = [sys.executable, "-c", TAKER, str(tmp_path), str(number), str(tmp_path / "runs")]
        takers.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    until = time.monotonic() + 300
    while len(list(tmp_path.glob("*.ready"))) < 4:
        assert time.monotonic() < until
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [process.stdout.readline().strip() for process in takers if process.stdout is not None]
    (winner,) = [process for process, line in zip(takers, said, strict=True) if line == "mine"]
    assert sorted(said) == sorted(["mine", *[str(winner.pid)] * 3])
    winner.kill()
    winner.wait()
    assert take(str(tmp_path / "runs"), "s").number == 2


def test_without_exclusive_creation_who_finds_his_own_word_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PAUSE_SECONDS", 4.0)  # longer than a busy machine leaves a thread alone
    fsspec.register_implementation("careless", Careless, clobber=True)
    outcomes: list[str] = []

    def try_it() -> None:
        try:
            take(f"careless://{tmp_path}/runs", "s")
            outcomes.append("mine")
        except Held:
            outcomes.append("held")

    threads = [threading.Thread(target=try_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "held", "mine"]
