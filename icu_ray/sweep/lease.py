"""One driver a sweep, wherever its storage is: who runs it says so there, and renews what he said while he lives.

    lease = take(storage, sweep)        # Held: another driver has it
    lease.renew()                       # every BEAT_SECONDS; Held: another driver has taken the sweep over since
    lease.release()

The lease is a small object <storage>/<sweep>/driver-N.json (host, process, since, last renewal). Whoever finds the
newest one released, its process gone from this machine, or not renewed for SILENT_SECONDS (five renewals missed), makes
number N + 1. How long it was not renewed is told by the storage's own clock, which times both the renewal and a small
object written now: machines need not agree on the time. On a local file system a number is made by one alone: of two
drivers one succeeds. fsspec promises no exclusive creation for every URL: it is asked for (S3 and GCS have it), and
after PAUSE_SECONDS the object is read back; of two that wrote the same number, who finds his own word has the sweep.

What this cannot exclude: on a file system without exclusive creation, two drivers of which one needs longer than
PAUSE_SECONDS to write; and a driver that stood still for SILENT_SECONDS (a machine that slept, or clocks that far apart
where the storage tells no time) and wakes beside its successor. Both are ended by the next renewal of the one with the
lower number, or whose word was overwritten; until then two run and do the same work twice. Results are written whole;
of a trial that both have under way the one that ends first may take the other's checkpoints away, and that one begins
its trial anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from icu_ray.errors import without_secrets
from icu_ray.storage.files import file_system, join, list_dir, local_path, modified, read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.processes import began, machine
from icu_ray.storage.results import SILENT_SECONDS, to_json

log = logging.getLogger(__name__)
PAUSE_SECONDS = 2.0
_NAME = re.compile(r"driver-(\d+)\.json")


@dataclass(frozen=True)
class Holder:
    """A driver. since, renewed: Unix seconds. machine, began: tell its process from a later one of the same number."""

    __pydantic_config__ = ConfigDict(extra="ignore", strict=True)

    id: str
    host: str
    process: int
    since: float
    renewed: float
    machine: str = ""
    began: str = ""
    released: bool = False

    @staticmethod
    def me() -> Holder:
        """This process."""
        now = time.time()
        return Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), now, now, machine(), began(os.getpid()))

    def lives(self, silent: Callable[[], float]) -> bool:
        """Whether the sweep is still its own, as far as this machine can know. silent: seconds without a renewal."""
        if self.released:
            return False
        if self.machine and self.machine == machine():
            if self.process == os.getpid():  # an earlier lease of this process, which could not be released
                return self.id in _HELD_HERE
            return began(self.process) == self.began
        return silent() < SILENT_SECONDS

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.process} on {self.host}, since {since}"


_HELD_HERE: set[str] = set()
"""Ids of the leases that this process holds."""


class Held(Exception):
    """Another driver has the sweep."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(str(holder))
        self.holder = holder


class Lease:
    """A sweep that is this driver's own. number: of its object."""

    def __init__(self, folder: str, number: int, holder: Holder) -> None:
        self.folder, self.number, self.holder = folder, number, holder
        self._lock = threading.Lock()  # a beat may be late, and must not come after the release

    @property
    def url(self) -> str:
        """Where it stands."""
        return _url(self.folder, self.number)

    def renew(self) -> None:
        """Say that this driver lives; Held: another one has taken the sweep over. Other errors: storage is away."""
        with self._lock:
            self._write(released=False)

    def release(self) -> None:
        """The next driver need not wait. A lease that another one has taken over is left to it."""
        _HELD_HERE.discard(self.holder.id)
        with self._lock:
            try:
                self._write(released=True)
            except Exception as error:  # storage is away: who comes next sees that this process is gone, or silent
                log.warning("the lease of %s was not released: %s", without_secrets(self.folder), type(error).__name__)

    def _write(self, released: bool) -> None:
        if self.holder.released:
            return
        _, newest = _newest(self.folder)
        if newest is not None and newest.id != self.holder.id:
            raise Held(newest)
        # Released is remembered even where it cannot be written: this driver has ended either way.
        self.holder = replace(self.holder, renewed=time.time(), released=released)
        write_atomic(self.url, to_json(asdict(self.holder)))


def take(storage: str, sweep: str) -> Lease:
    """Make a sweep this driver's own; Held where it is another's."""
    folder = join(storage, sweep)
    while True:
        number, newest = _newest(folder)
        if newest is not None and newest.lives(partial(_silent_seconds, folder, number, newest)):
            raise Held(newest)
        lease = Lease(folder, number + 1, Holder.me())
        _HELD_HERE.add(lease.holder.id)  # before anybody can read it
        if _create(lease.url, to_json(asdict(lease.holder))):
            for name in list_dir(folder):  # the numbers go on, the objects need not stay
                if (match := _NAME.fullmatch(name)) and int(match[1]) <= number:
                    remove(join(folder, name))
            return lease
        _HELD_HERE.discard(lease.holder.id)


def _url(folder: str, number: int) -> str:
    return join(folder, f"driver-{number}.json")


def _newest(folder: str) -> tuple[int, Holder | None]:
    """The highest number, 0 where there is none, and who stands there; None: what stands there cannot be read."""
    number = max((int(match[1]) for name in list_dir(folder) if (match := _NAME.fullmatch(name))), default=0)
    content = read_bytes(_url(folder, number)) if number else None
    try:
        return number, None if content is None else _HOLDER.validate_json(content)
    except ValidationError:
        return number, None


def _silent_seconds(folder: str, number: int, holder: Holder) -> float:
    """How long ago a lease was last written."""
    probe = join(folder, f".clock-{uuid.uuid4().hex}.tmp")
    try:
        write_atomic(probe, b"")
        return modified(probe) - modified(_url(folder, number))
    except FileNotFoundError:  # another driver has taken over just now
        return 0.0
    except NotImplementedError:  # no clock: this machine's, and who is that far ahead of it counts as silent too
        return abs(time.time() - holder.renewed)
    finally:
        remove(probe)


_HOLDER = TypeAdapter(Holder)


def _create(url: str, data: bytes) -> bool:
    """Write an object that is not there yet; False where another one was faster."""
    path = local_path(url)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".driver-") as folder:
            whole = Path(folder) / path.name
            whole.write_bytes(data)
            try:
                os.link(whole, path)
                return True
            except FileExistsError:
                # Over a network the answer to a link that was made may be lost, and the second try finds it there.
                return bool(json.loads(path.read_bytes())["id"] == json.loads(data)["id"])
            except OSError:  # a file system without hard links
                pass
    filesystem, inside = file_system(url)
    with contextlib.suppress(FileExistsError):
        filesystem.makedirs(os.path.dirname(inside), exist_ok=True)
        filesystem.pipe_file(inside, data, mode="create")
    time.sleep(PAUSE_SECONDS)
    content = read_bytes(url)
    return content is not None and json.loads(content)["id"] == json.loads(data)["id"]
