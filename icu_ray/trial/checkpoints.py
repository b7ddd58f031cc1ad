"""A trial's checkpoints: the newest whole one in storage, Ray's list of them, and room for the next.

with newest_checkpoint(paths) as folder: ...
with scratch_folder() as folder:
    save(folder); check_room(paths, folder)         # then Ray uploads it
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from icu_ray.storage.files import join, list_dir, local_path, read_bytes
from icu_ray.storage.folders import fetched, remove
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.trial_files import TrialPaths

__all__ = ["TRIAL_FILE", "check_room", "newest_checkpoint", "scratch_folder", "sign_of_progress"]
log = logging.getLogger(__name__)
TRIAL_FILE = "trial_id.txt"
"""In a checkpoint: whose it is."""
_SNAPSHOT = "checkpoint_manager_snapshot.json"


@contextlib.contextmanager
def newest_checkpoint(paths: TrialPaths) -> Iterator[Path | None]:
    """A local folder with the newest checkpoint that is whole, None where there is none.

    Looked for among the folders themselves: a driver killed between upload and bookkeeping leaves a good one that Ray
    does not know, and a machine that lost power may leave a bad one that it does.
    """
    from icu_ray.training.checkpoints import DamagedCheckpoint, read_state

    with contextlib.ExitStack() as stack:
        for name in sorted((n for n in list_dir(paths.checkpoint) if n.startswith("checkpoint_2")), reverse=True):
            folder = stack.enter_context(fetched(join(paths.checkpoint, name)))
            try:
                read_state(folder)
                _check_trial(folder, paths)
            except DamagedCheckpoint as error:
                log.warning("not continued from a damaged checkpoint: %s", error)
                continue
            yield folder
            return
        yield None


def _check_trial(folder: Path, paths: TrialPaths) -> None:
    """DamagedCheckpoint where a checkpoint is another trial's."""
    from icu_ray.training.checkpoints import DamagedCheckpoint

    file = folder / TRIAL_FILE
    found = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    if found and found != paths.trial_id:  # checkpoints of earlier versions do not say
        raise DamagedCheckpoint(f"{folder}: is of trial {found[:40]!r}")


def drop_broken_snapshot(paths: TrialPaths) -> None:
    """Ray's list of checkpoints is not written atomically; a torn one would keep the trial from ever starting again."""
    url = join(paths.checkpoint, _SNAPSHOT)
    content = read_bytes(url)
    if content is None:
        return
    try:
        known = {entry["checkpoint_dir_name"] for entry in json.loads(content)["checkpoint_results"]}
        broken = not known <= set(list_dir(paths.checkpoint))
    except (ValueError, KeyError, TypeError):
        broken = True
    if broken:
        log.warning("%s is damaged; the trial's checkpoints are looked for without it", url)
        remove(url)


def check_room(paths: TrialPaths, folder: Path) -> None:
    """OSError (ENOSPC, EROFS) when a local storage has no room for a copy of `folder`, or is read-only."""
    root = local_path(paths.root)
    if root is None:
        return
    needed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if shutil.disk_usage(root).free < max(needed, 1):
        raise OSError(errno.ENOSPC, f"no room for {needed} bytes", str(root))
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, "mounted read-only", str(root))


def sign_of_progress(paths: TrialPaths) -> bytes | None:
    """What a trial has told of its epochs; OSError while storage has no room for another checkpoint like the last."""
    folder = local_path(paths.checkpoint)
    known = sorted(folder.glob("checkpoint_2*")) if folder is not None else []
    check_room(paths, known[-1] if known else Path(os.devnull))
    return read_bytes(paths.events)
