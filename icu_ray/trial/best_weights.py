"""The weights of a trial's best epoch so far (stop.keep=best): one file in the trial's folder until the trial is over.

keep_weights(paths, 3, report.save_weights, rank); drop_weights(paths, but=3)
with kept_weights(paths, 3) as file: ...        # None where it is gone, or is not what was written

Beside it lies the SHA-256 of what was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from icu_ray.errors import without_secrets
from icu_ray.storage.files import file_system, join, list_dir, local_path, read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.retry import with_retries
from icu_ray.storage.trial_files import BEST, TrialPaths
from icu_ray.trial.checkpoints import check_room

log = logging.getLogger(__name__)
_SUM = ".sha256"


def keep_weights(paths: TrialPaths, epoch: int, save: Callable[[Path], None], rank: int) -> None:
    """Put what `save` writes, on rank 0, into the trial's folder, whole or not at all; every rank must call it."""
    with scratch_folder() as folder:
        file = folder / "weights.safetensors"
        save(file)
        if rank == 0:
            with_retries(lambda: check_room(paths, folder), paths.root)
            with_retries(lambda: _put(file, paths.best(epoch)), paths.best(epoch))
            # A trial that is killed before this goes on from the epoch before, and keeps this one's anew.
            with_retries(lambda: write_atomic(paths.best(epoch) + _SUM, _sum(file)), paths.best(epoch))


def _sum(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest().encode()


def _put(file: Path, url: str) -> None:
    target = local_path(url)
    filesystem, inside = file_system(url)
    if target is None:
        filesystem.put_file(str(file), inside)  # a bucket shows an object when it is whole
        return
    half = target.with_name(f".{target.name}.tmp")  # storage/leftovers.py takes it away
    filesystem.put_file(str(file), str(half))
    os.replace(half, target)


@contextlib.contextmanager
def kept_weights(paths: TrialPaths, epoch: int) -> Iterator[Path | None]:
    """A local file with the weights after an epoch, None where there is none that is as it was written."""
    url = paths.best(epoch)
    if url.rpartition("/")[2] not in list_dir(paths.root):
        yield None
        return
    with contextlib.ExitStack() as stack:
        file = local_path(url)
        if file is None:
            filesystem, inside = file_system(url)
            file = stack.enter_context(scratch_folder()) / "weights.safetensors"
            filesystem.get_file(inside, str(file))
        known = read_bytes(url + _SUM)  # None: an earlier version wrote no sum
        if known is not None and known != _sum(file):
            log.warning(
                "%s is not what was written, as its SHA-256 says; the last epoch's model is left", without_secrets(url)
            )
            yield None
            return
        yield file


def drop_weights(paths: TrialPaths, but: int | None = None) -> None:
    """Remove the weights that were kept, those of epoch `but` excepted."""
    for name in list_dir(paths.root):
        url = join(paths.root, name)
        if name.startswith(BEST) and (but is None or not url.startswith(paths.best(but))):
            remove(url)
