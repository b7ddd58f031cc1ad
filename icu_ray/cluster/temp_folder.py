"""The folder of a Ray that is started here: private to a run, gone with it, also where an earlier run was killed.

with temp_folder(keep_logs=Path("logs/ray")) as folder: ray.init(_temp_dir=str(folder))
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from icu_ray.errors import ClusterError
from icu_ray.storage.processes import is_gone, this_process

_PREFIX = "icu-ray-"
_OWNER = "driver.pid"
_RAY = "r"
"""Ray's own folder in it. Ray opens that to everybody, so that only the one around it is private."""
_SOCKET = f"/{_PREFIX}12345678/{_RAY}/session_2026-01-01_00-00-00_123456_4194304/sockets/plasma_store"
"""The longest path that Ray opens a socket at, below the folder for temporary files."""
_LONGEST = 107
"""Bytes of a socket's path, on every Linux."""
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")


@contextlib.contextmanager
def temp_folder(keep_logs: Path | None) -> Iterator[Path]:
    """A new folder for the block; its path is short, as sockets in it may have 107 characters.

    keep_logs: a folder that gets Ray's own logs when the block is left by an exception. ClusterError where no folder
    for temporary files has a name that is short enough.
    """
    base = _base()
    _remove_orphans(base)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    (folder / _OWNER).write_text(this_process())
    try:
        yield folder / _RAY
    except Exception:
        if keep_logs is not None:
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(folder / _RAY / "session_latest" / "logs", keep_logs, dirs_exist_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _base() -> Path:
    """The folder for temporary files (TMPDIR), or where its name is too long for Ray another that can be written."""
    given, longest = tempfile.gettempdir(), _LONGEST - len(_SOCKET)
    for folder in (given, *_SHORT):
        if len(os.fsencode(folder)) <= longest and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    raise ClusterError(
        f"TMPDIR: {given} is too long for Ray's sockets ({len(os.fsencode(given))} bytes, expected at most {longest}), "
        f"and none of {', '.join(_SHORT)} can be written; set TMPDIR to a folder with a shorter name"
    )


def remove_orphaned_folders() -> list[Path]:
    """Remove folders of killed runs, with Ray's logs in them, wherever this machine may have them; which they were."""
    places = dict.fromkeys((tempfile.gettempdir(), *_SHORT))
    return [folder for place in places if Path(place).is_dir() for folder in _remove_orphans(Path(place))]


def _remove_orphans(base: Path) -> list[Path]:
    """Folders of runs that were killed and could not clean up; which were removed."""
    removed = []
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            gone = is_gone((folder / _OWNER).read_text())
        except (OSError, ValueError):
            continue
        if gone:
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed
