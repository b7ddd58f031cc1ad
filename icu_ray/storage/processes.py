"""Names a process so that another one can tell whether it still lives, wherever the two run; and its scratch folders.

    owner = this_process()              # fit for a file's name
    is_gone(owner)                      # True: it has ended. False: it lives, or nobody can know from here
    with scratch_folder() as folder: ...

A process number means something in one boot of one kernel and in one namespace of it, and only until it is used again.
So of a process of another machine or container nothing is known, and what is its own stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_SCRATCH = "icu_ray_scratch_"


def this_process() -> str:
    """The name of this process."""
    return f"{_machine_name()}-{os.getpid()}-{began(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a process is known to have ended; of what is no name of one nothing is known."""
    where, *rest = process.rsplit("-", 2)
    known = bool(where) and where == _machine_name() and len(rest) == 2 and rest[0].isdigit()
    return known and began(int(rest[0])) != rest[1]


def _machine_name() -> str:
    return hashlib.sha256(machine().encode()).hexdigest()[:16] if machine() else ""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this machine for the time of the block; those that killed processes left are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        if is_gone(left.name.removeprefix(_SCRATCH).split("_")[0]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{this_process()}_") as folder:
        yield Path(folder)


def machine() -> str:
    """Names what process numbers mean something in: a boot of a kernel and a namespace of it; '' where unknown."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def began(process: int) -> str:
    """When a process of this machine was started, in the kernel's ticks; '' where there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
