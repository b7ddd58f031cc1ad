"""The ledger of deletion requests: entries that can only be added, each with the hash of the one before.

    with writing(folder) as book: book.append("added", {"request": "r1"})
    chain = read_chain(folder); chain.entries, chain.troubles

In the folder lie `ledger.jsonl` (one entry a line), `head.json` (number and hash of the last entry) and `key` (32
random bytes, readable by their owner alone). An entry's hash is SHA-256 over its canonical JSON, so anybody can check
the chain. Entry and head also carry an HMAC of the hash, so only who has the key can write them: a changed, removed or
reordered entry breaks the chain, and where entries at the end are missing the head says so. Who has the key can write a
whole other ledger; a record that lies elsewhere (`bundle`) names the head of its time, which that one lacks.

An entry is whole once its line end is written. What stands behind the last line end was left by a writer that was
killed: it is no entry, `verify` says so, and the next writer removes it. The head is written after the entry, so it may
be one behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from icu_ray.errors import UserError
from icu_ray.storage.files import read_bytes, sync_folder, write_atomic
from icu_ray.storage.results import finite, to_json
from icu_ray.storage.store import content_hash

FILE, HEAD, KEY = "ledger.jsonl", "head.json", "key"
_FIELDS = ("number", "time", "kind", "told", "before")
_LOCK = ".ledger.lock"
FIRST = "0" * 64
"""What the first entry has in place of the hash of one before it."""


@dataclass(frozen=True)
class Entry:
    """One thing that happened. number: from 1. time: UTC. told: plain values by `kind` (requests/ledger_state.py)."""

    number: int
    time: str
    kind: str
    told: Mapping[str, Any]
    before: str
    hash: str


@dataclass(frozen=True)
class Trouble:
    """Something that is not as it was written. entry: its number; 0: not of one entry."""

    entry: int
    said: str

    def __str__(self) -> str:
        return f"entry {self.entry}: {self.said}" if self.entry else self.said


@dataclass(frozen=True)
class Chain:
    """What stands in a ledger. half: bytes behind the last line end, which are no entry. whole: bytes before them."""

    entries: tuple[Entry, ...]
    troubles: tuple[Trouble, ...]
    half: int = 0
    whole: int = 0

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last entry."""
        return (self.entries[-1].number, self.entries[-1].hash) if self.entries else (0, FIRST)


@dataclass
class Book:
    """A ledger that is open for writing; nobody else writes meanwhile."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)

    def append(self, kind: str, told: Mapping[str, Any]) -> Entry:
        """One entry more, on the disk when this returns."""
        last = self.entries[-1] if self.entries else None
        number, before = (1, FIRST) if last is None else (last.number + 1, last.hash)
        known = {"number": number, "time": now(), "kind": kind, "told": finite(dict(told)), "before": before}
        digest = content_hash(known)
        line = to_json({**known, "hash": digest, "mac": mac(read_key(self.folder), digest)})
        handle = os.open(self.folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        entry = Entry(**known, hash=digest)
        self.entries.append(entry)
        write_head(self.folder, entry)
        return entry


def _write(handle: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        written += os.write(handle, line[written:])


def write_head(folder: Path, entry: Entry) -> None:
    """head.json for a ledger that ends with this entry."""
    told = {"number": entry.number, "hash": entry.hash, "mac": mac(read_key(folder), f"{entry.number} {entry.hash}")}
    write_atomic(str(folder / HEAD), to_json(told))


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def mac(key: bytes, text: str) -> str:
    """HMAC-SHA256 of a text's UTF-8."""
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def read_key(folder: Path) -> bytes:
    """The ledger's key; UserError where it is not there."""
    found = read_bytes(str(folder / KEY))
    if not found:
        raise UserError(
            f"{folder / KEY}: no such file; expected the ledger's key, without which nothing can be checked"
        )
    return found


@contextlib.contextmanager
def made_ledger(folder: Path, told: Mapping[str, Any]) -> Iterator[None]:
    """A new ledger whose first entry is `told`; it appears whole when the block ends, or not at all.

    UserError where it cannot take the folder's place: it is made beside it and then renamed.
    """
    place = Path(os.path.realpath(folder))  # a folder can take an empty folder's place, and not that of a link to one
    if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{folder}: is there already; expected a folder that is new or empty")
    if place == Path.cwd().resolve():  # the shell would be left in a folder that is gone
        raise UserError(f"{folder}: is the working directory; expected a folder that is new or empty, and another one")
    place.parent.mkdir(parents=True, exist_ok=True)
    staging = place.parent / f".{place.name}-{uuid.uuid4().hex[:8]}.tmp"
    staging.mkdir(mode=0o700)
    try:
        handle = os.open(staging / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        Book(staging).append("made", {"ledger": uuid.uuid4().hex, **told})
        yield
        try:
            os.rename(staging, place)
        except OSError as error:  # a disk is mounted there, or somebody else was faster
            raise UserError(
                f"{folder}: no ledger can be put there ({error.strerror}); expected a new folder, such as one below it"
            ) from error
        sync_folder(place.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def require_ledger(folder: Path) -> None:
    """UserError unless there is a ledger."""
    if not (folder / FILE).is_file():
        what = "holds no ledger" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: {what}; expected one that 'icu-ray requests init' made")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Book]:
    """The ledger for a reader who then writes, alone. UserError where it is damaged: nothing is added to such a one.

    What a killed writer left is removed first. The lock is the kernel's: it ends with its holder.
    """
    require_ledger(folder)
    with FileLock(folder / _LOCK, mode=0o600):
        chain = read_chain(folder)
        refuse_damaged(folder, chain)
        if chain.half:
            with (folder / FILE).open("r+b") as file:
                file.truncate(chain.whole)
                file.flush()
                os.fsync(file.fileno())
        head = _head_told(folder)
        if head is None or head[:2] != chain.head:
            write_head(folder, chain.entries[-1])
        yield Book(folder, list(chain.entries))


def refuse_damaged(folder: Path, chain: Chain) -> None:
    """UserError where something is not as it was written."""
    if chain.troubles:
        more = f" and {len(chain.troubles) - 1} more" if len(chain.troubles) > 1 else ""
        raise UserError(
            f"{folder}: the ledger is not as it was written: {chain.troubles[0]}{more}; nothing was done. 'icu-ray "
            "requests verify' lists all of it; go on with a copy of the ledger from before"
        )


def read_chain(folder: Path) -> Chain:
    """All entries, and what is wrong with them. UserError where there is no ledger.

    The head is read before the entries: who writes meanwhile adds entries that the head does not name yet.
    """
    require_ledger(folder)
    head = _head_told(folder)
    content, key = (folder / FILE).read_bytes(), read_key(folder)
    whole = content.rfind(b"\n") + 1
    entries: list[Entry] = []
    troubles: list[Trouble] = []
    before = FIRST
    for place, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
        entry, trouble = _read(line, place, before, key)
        if trouble:
            troubles.append(Trouble(place, trouble))
        if entry is None:
            before = ""
            continue
        entries.append(entry)
        before = entry.hash
    troubles += _of_head(head, entries, key)
    return Chain(tuple(entries), tuple(troubles), len(content) - whole, whole)


def _read(line: bytes, place: int, before: str, key: bytes) -> tuple[Entry | None, str]:
    """An entry as far as it is one, and what is wrong with it."""
    try:
        found = json.loads(line)
        entry = Entry(*(found[name] for name in (*_FIELDS, "hash")))
        digest = content_hash({name: found[name] for name in _FIELDS})
        signed = hmac.compare_digest(str(found["mac"]), mac(key, str(found["hash"])))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, "is no entry: the line was changed"
    if not isinstance(entry.number, int) or not isinstance(entry.told, Mapping):
        return None, "is no entry: the line was changed"
    if digest != entry.hash:
        return entry, "was changed: its content has another hash"
    if not signed:
        return entry, "was not written with this ledger's key"
    if entry.number != place:
        return entry, f"is missing here: entry {entry.number} stands in its place (removed, or in another order)"
    if entry.before != before:
        return entry, "does not follow the entry before it (changed, removed, or in another order)"
    return entry, ""


def _of_head(told: tuple[int, str, str] | None, entries: list[Entry], key: bytes) -> list[Trouble]:
    if told is None:
        return [Trouble(0, f"{HEAD}: is missing or no head: whether entries at the end are missing cannot be told")]
    number, digest, signed = told
    if not hmac.compare_digest(signed, mac(key, f"{number} {digest}")):
        return [Trouble(0, f"{HEAD}: was not written with this ledger's key")]
    if number > len(entries):
        gone = f"entry {number} is" if number == len(entries) + 1 else f"entries {len(entries) + 1} to {number} are"
        return [Trouble(len(entries) + 1, f"is missing: the ledger was cut off, {gone} gone")]
    if entries[number - 1].hash != digest:
        return [Trouble(number, f"is not the one that {HEAD} names")]
    return []


def _head_told(folder: Path) -> tuple[int, str, str] | None:
    """Number, hash and HMAC that head.json tells; None where it is missing or no head."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads((folder / HEAD).read_bytes())
        if isinstance(found["number"], int) and found["number"] >= 1:
            return found["number"], str(found["hash"]), str(found["mac"])
    return None
