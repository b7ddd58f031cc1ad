"""The store: honest hashes, atomic artefacts, verified reads, makers that wait for each other, remote roots.

Needs: nothing.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.errors import UserError
from icu_ray.storage.files import check_writable, join, list_dir, read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.store import JsonValue, Store, content_hash, verify

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_a_hash_survives_a_json_round_trip(value: JsonValue) -> None:
    assert content_hash(json.loads(json.dumps(value))) == content_hash(value)


def test_hash_sees_values_and_not_their_writing() -> None:
    assert content_hash({"a": 1, "b": [0.1]}) == content_hash({"b": (0.10,), "a": 1})
    different: list[JsonValue] = [None, False, 0, 0.0, "", "0", [], {}, [None], {"": None}, 1, True, 1.0, "1"]
    assert len({content_hash(value) for value in different}) == len(different)


def test_hash_is_the_same_in_every_python() -> None:
    # printf %s '{"lr":5e-06,"name":"\u00fc"}' | sha256sum
    assert content_hash({"lr": 5e-6, "name": "ü"})[:16] == "393e8be15a02abe5"


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        Path("x"),
        {1},
        b"x",
        {1: "x"},
        np.int64(1),
        np.zeros(2),
        object(),
        [[{"a": math.nan}]],
    ],
)
def test_what_has_no_honest_hash_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        content_hash(value)  # type: ignore[arg-type]


def _write(folder: Path, text: str = "hello") -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text(text)
    (folder / "b.bin").write_bytes(bytes(1000))


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    return Store(f"memory://{uuid.uuid4().hex}/store", cache=str(tmp_path / "cache"))


def test_an_artefact_is_made_once(store: Store) -> None:
    calls: list[int] = []

    def make(folder: Path) -> None:
        calls.append(1)
        _write(folder)

    key = {"sample": 0, "lr": 5e-6}
    assert not store.contains("pairs", key)
    first, second = (store.get_or_make("pairs", key, make) for _ in range(2))
    assert first == second
    assert first.is_absolute()
    assert calls == [1]
    assert (first / "sub" / "a.txt").read_text() == "hello"
    assert verify(first) is None
    assert store.contains("pairs", key)
    assert not store.contains("pairs", {"sample": 1, "lr": 5e-6})
    assert store.get_or_make("other", key, make) != first
    assert len(calls) == 2


def test_a_failed_maker_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        _write(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        store.get_or_make("pairs", {"k": 1}, fail)
    assert not store.contains("pairs", {"k": 1})
    assert [path.name for path in (store.folder / "pairs").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "extra", "manifest", "no manifest"])
def test_a_damaged_artefact_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    store = Store(str(tmp_path))
    folder = store.get_or_make("pairs", {"k": 1}, _write)
    file = folder / "sub" / "a.txt"
    if damage == "flip":
        file.write_text("hellO")
    elif damage == "truncate":
        (folder / "b.bin").write_bytes(b"")
    elif damage == "remove":
        file.unlink()
    elif damage == "extra":
        (folder / "c.txt").write_text("x")
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        again = store.get_or_make("pairs", {"k": 1}, _write)
    assert again == folder
    assert file.read_text() == "hello"
    assert verify(folder) is None
    assert "damaged" in caplog.text
    assert "made again" in caplog.text


@pytest.mark.parametrize("remote", [False, True])
def test_an_artefact_in_another_one_s_place_is_not_taken_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, remote: bool
) -> None:
    root = f"memory://{uuid.uuid4().hex}/store" if remote else str(tmp_path / "store")
    first, second = Store(root, cache=str(tmp_path / "one")), Store(root, cache=str(tmp_path / "two"))
    other = first.get_or_make("m", {"k": 2}, lambda folder: void((folder / "b.bin").write_bytes(b"of another")))
    mine = first.get_or_make("m", {"k": 1}, _write)
    place = join(root, "m", mine.name)
    remove(place)
    for file in other.iterdir():
        write_atomic(join(place, file.name), file.read_bytes())
    with caplog.at_level(logging.WARNING):
        again = second.get_or_make("m", {"k": 1}, _write)
    assert (again / "sub" / "a.txt").read_text() == "hello"
    assert f"manifest.json is of another artefact, {other.name[:12]}" in caplog.text


def void(_: object) -> None:
    return None


def test_a_second_machine_takes_the_remote_artefact(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}/store"
    Store(root, cache=str(tmp_path / "one")).get_or_make("m", {"k": 1}, _write)

    def never(folder: Path) -> None:
        raise AssertionError("made twice")

    other = Store(root, cache=str(tmp_path / "two"))
    assert other.contains("m", {"k": 1})
    folder = other.get_or_make("m", {"k": 1}, never)
    assert (folder / "sub" / "a.txt").read_text() == "hello"
    assert str(folder).startswith(str(tmp_path / "two"))


def test_a_damaged_remote_artefact_is_made_again_and_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = f"memory://{uuid.uuid4().hex}/store"
    name = Store(root, cache=str(tmp_path / "one")).get_or_make("m", {"k": 1}, _write).name
    write_atomic(join(root, "m", name, "b.bin"), b"broken")
    for machine in ("two", "three"):
        folder = Store(root, cache=str(tmp_path / machine)).get_or_make("m", {"k": 1}, _write)
        assert verify(folder) is None
    assert caplog.text.count("damaged") == 1
    assert read_bytes(join(root, "m", name, "b.bin")) == bytes(1000)


def test_a_lost_remote_copy_is_sent_again(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}/store"
    store = Store(root, cache=str(tmp_path / "one"))
    name = store.get_or_make("m", {"k": 1}, _write).name
    import fsspec

    fsspec.filesystem("memory").rm(join(root, "m").removeprefix("memory:/"), recursive=True)
    store.get_or_make("m", {"k": 1}, _write)
    assert "manifest.json" in list_dir(join(root, "m", name))


def _slow_maker(root: str, marks: str) -> None:
    def make(folder: Path) -> None:
        (Path(marks) / uuid.uuid4().hex).touch()
        time.sleep(0.5)
        _write(folder)

    Store(root).get_or_make("pairs", {"k": 1}, make)


def test_concurrent_makers_make_it_once(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=_slow_maker, args=(str(tmp_path / "s"), str(marks))) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(300)
    assert [maker.exitcode for maker in makers] == [0, 0, 0]
    assert len(list(marks.iterdir())) == 1


def _hang(root: str, started: str) -> None:
    def make(folder: Path) -> None:
        _write(folder)
        Path(started).touch()
        time.sleep(600)

    Store(root).get_or_make("pairs", {"k": 1}, make)


def test_a_killed_maker_blocks_nobody(tmp_path: Path) -> None:
    started = tmp_path / "started"
    process = multiprocessing.get_context("spawn").Process(target=_hang, args=(str(tmp_path / "s"), str(started)))
    process.start()
    while not started.exists():
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = Store(str(tmp_path / "s"))
    folder = store.get_or_make("pairs", {"k": 1}, _write)
    assert verify(folder) is None
    assert [path for path in folder.parent.iterdir() if path.name.endswith(".staging")] == []


def test_what_a_killed_maker_left_goes_also_where_nobody_asks_for_it_again(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "s"))
    seen: list[tuple[bool, bool]] = []

    def make(folder: Path) -> None:
        left = folder.with_name(folder.name.replace(content_hash(["m", {"k": 1}]), content_hash(["m", {"k": 2}])))
        left.mkdir()
        store.remove_leftovers()
        seen.append((folder.is_dir(), left.exists()))  # a maker at work keeps its own
        _write(folder)

    store.get_or_make("m", {"k": 1}, make)
    assert seen == [(True, False)]


@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_small_files_by_path_or_url(tmp_path: Path, kind: str) -> None:
    root = {"path": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{uuid.uuid4().hex}"}[kind]
    url = join(root, "a", "b", "result.json")
    assert read_bytes(url) is None
    assert list_dir(join(root, "a")) == []
    write_atomic(url, b"one")
    write_atomic(url, b"two")
    assert read_bytes(url) == b"two"
    assert list_dir(join(root, "a", "b")) == ["result.json"]
    assert list_dir(join(root, "a")) == ["b"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    write_atomic(str(tmp_path / "x"), b"old")
    with pytest.raises(TypeError):
        write_atomic(str(tmp_path / "x"), "no bytes")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert read_bytes(str(tmp_path / "x")) == b"old"


def test_writable_storage_is_left_untouched(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "not" / "yet"))
    assert list(tmp_path.iterdir()) == []
    check_writable(f"memory://{uuid.uuid4().hex}/runs")


def test_storage_that_takes_nothing_is_named_without_its_password() -> None:
    class Full(MemoryFileSystem):  # type: ignore[misc]
        protocol = "full"

        def pipe_file(self, path: str, *args: Any, **options: Any) -> None:
            raise OSError(f"PUT full://user:CANARY@b/{path}: 507")

    fsspec.register_implementation("full", Full, clobber=True)
    with pytest.raises(UserError) as refused:
        check_writable("full://user:CANARY@b/runs")
    assert str(refused.value).startswith("storage full://b/runs: cannot be written (OSError: PUT full://")
    assert "CANARY" not in str(refused.value)


@pytest.mark.parametrize("root", ["{tmp}/file/runs", "{tmp}/file", "/proc/runs", "nosuchprotocol://bucket/runs"])
def test_unwritable_storage_is_refused(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    place = root.format(tmp=tmp_path)
    with pytest.raises(UserError, match=f"storage {place}"):
        check_writable(place)
