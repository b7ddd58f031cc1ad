"""What a trial does when memory or disk does not suffice: half the micro batch once, and no half-written checkpoint.

halve_micro_batch(paths, job, world_size, error)        # on the worker that ran out; then raise, and be started anew
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.files import local_path, read_bytes, write_atomic
from icu_ray.storage.results import to_json
from icu_ray.storage.trial_files import TrialPaths

_SCRATCH = f"icu_ray_checkpoint_{socket.gethostname()}_"
_SAID_BY_TORCH = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class MemoryExhausted(Exception):
    """A trial ran out of memory with the halved micro batch, too; no RuntimeError, for it would happen again."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of the GPU or of the machine did not suffice."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _SAID_BY_TORCH)


def read_micro_batch(paths: TrialPaths) -> int | None:
    """The micro batch that a trial was left with after it ran out of memory."""
    content = read_bytes(paths.micro_batch)
    return None if content is None else int(json.loads(content)["micro_batch"])


def halve_micro_batch(paths: TrialPaths, job: TrialSettings, world_size: int, error: BaseException) -> None:
    """Have the trial's next start use half the micro batch, and so twice the accumulation; raises MemoryExhausted where
    it has done so before or nothing can be halved."""
    per_rank = -(-job.batch_size // world_size)
    micro = min(job.micro_batch or per_rank, per_rank)
    known = read_micro_batch(paths)
    if known is not None and known < micro:
        return  # another rank has said so
    if known is not None or micro < 2:
        raise MemoryExhausted(f"out of memory with micro_batch={micro}: {error}") from error
    write_atomic(paths.micro_batch, to_json({"micro_batch": micro // 2, "was": micro, "error": str(error)[:500]}))


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


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this machine for a checkpoint on its way to storage; those that killed workers left are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        try:
            os.kill(int(left.name.removeprefix(_SCRATCH).split("_")[0]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # another user's
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}_") as folder:
        yield Path(folder)


def sign_of_progress(paths: TrialPaths) -> bytes | None:
    """What a trial has told of its epochs; OSError while storage has no room for another checkpoint like the last."""
    folder = local_path(paths.checkpoint)
    known = sorted(folder.glob("checkpoint_2*")) if folder is not None else []
    check_room(paths, known[-1] if known else Path(os.devnull))
    return read_bytes(paths.events)
