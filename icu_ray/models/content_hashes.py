"""SHA-256 of files, whole whatever their size: large ones in parts, side by side.

    [(size, digest)] = content_hashes([Path("model.safetensors")])

Hashes of large files are remembered in this machine's cache by path, size, times and inode, so that planning again does
not read them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from icu_ray.storage.files import cache_folder, write_atomic

WHOLE_BYTES = 512 * 1024**2
"""Larger files are hashed in parts, side by side; these keep the hash that they had before."""
PART_BYTES = 64 * 1024**2
READ_BYTES = 1024**2
REMEMBERED_BYTES = 16 * 1024**2
"""Smaller files are read again each time: it takes less than looking."""
REMEMBERED_FILES = 4096
SETTLED_SECONDS = 2.0
"""A file that was written to just now may change again within the same tick of its file system's clock."""


def content_hashes(paths: Sequence[Path]) -> list[tuple[int, bytes]]:
    """Size and SHA-256 of each file; a large one's is that of its parts' hashes."""
    remembered = _remembered()
    states = [_state(path) for path in paths]
    known = {place: _known(remembered, place, state) for place, state in states}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashing = [
            [pool.submit(_part, place, begin, length) for begin, length in _parts(state["size"])]
            for place, state in states
            if known[place] is None
        ]
        fresh = iter([[part.result() for part in parts] for parts in hashing])
    found, learnt = [], {}
    for place, state in states:
        content = known[place]
        if content is None:
            parts = next(fresh)
            content = parts[0] if len(parts) == 1 else hashlib.sha256(b"".join(parts)).digest()
            settled = time.time() - max(state["mtime_ns"], state["ctime_ns"]) / 1e9 > SETTLED_SECONDS
            if state["size"] >= REMEMBERED_BYTES and settled:
                learnt[place] = {**state, "sha256": content.hex()}
        found.append((state["size"], content))
    if learnt:
        _remember(learnt)
    return found


def _state(path: Path) -> tuple[str, dict[str, int]]:
    """Where a file lies, and what changes when it is written to or replaced, even by one of an equal size and mtime."""
    place = os.path.realpath(path)
    stat = os.stat(place)
    return place, {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def _parts(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE_BYTES:
        return [(0, size)]
    return [(begin, min(PART_BYTES, size - begin)) for begin in range(0, size, PART_BYTES)]


def _part(place: str, begin: int, length: int) -> bytes:
    digest, view = hashlib.sha256(), memoryview(bytearray(min(READ_BYTES, max(length, 1))))
    with open(place, "rb", buffering=0) as file:
        file.seek(begin)
        while length > 0 and (read := file.readinto(view[:length])):
            digest.update(view[:read])
            length -= read
    return digest.digest()


def _memory() -> Path:
    return cache_folder() / "fingerprints.json"


def _remembered() -> dict[str, Any]:
    """What earlier calls learnt; nothing where it cannot be read, which costs reading the files again."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(_memory().read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def _known(remembered: Mapping[str, Any], place: str, state: Mapping[str, int]) -> bytes | None:
    entry = remembered.get(place)
    if not isinstance(entry, dict) or any(entry.get(name) != value for name, value in state.items()):
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        content = bytes.fromhex(entry["sha256"])
        return content if len(content) == hashlib.sha256().digest_size else None
    return None


def _remember(learnt: Mapping[str, Any]) -> None:
    """Two processes that remember at once may lose one's entries: they are learnt again."""
    kept = {**{place: entry for place, entry in _remembered().items() if place not in learnt}, **learnt}
    kept = dict(list(kept.items())[-REMEMBERED_FILES:])
    with contextlib.suppress(OSError):
        write_atomic(str(_memory()), json.dumps(kept).encode())
