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

from icu_ray.storage.processes import is_gone, this_process

_PREFIX = "icu-ray-"
_OWNER = "driver.pid"


@contextlib.contextmanager
def temp_folder(keep_logs: Path | None) -> Iterator[Path]:
    """A new folder for the block; its path is short, as sockets in it may have 107 characters.

    keep_logs: a folder that gets Ray's own logs when the block is left by an exception.
    """
    base = Path(tempfile.gettempdir())
    _remove_orphans(base)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    (folder / _OWNER).write_text(this_process())
    try:
        yield folder
    except Exception:
        if keep_logs is not None:
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(folder / "session_latest" / "logs", keep_logs, dirs_exist_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(base: Path) -> None:
    """Folders of runs that were killed and could not clean up."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            gone = is_gone((folder / _OWNER).read_text())
        except (OSError, ValueError):
            continue
        if gone:
            shutil.rmtree(folder, ignore_errors=True)
