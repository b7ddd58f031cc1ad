"""What a killed run of a sweep leaves in storage that no later one uses, and taking it away.

    remove_leftovers(storage, sweep)        # by the sweep's driver, before its trials run
    with unfinished_model(folder) as made: ...      # in a trial's folder, to be renamed when it is whole

Of a trial that is done these are its checkpoints and the error of an attempt before; of every trial and of the sweep
itself, files and models that were not written to their end. What a trial goes on from stays.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from icu_ray.errors import UserError
from icu_ray.storage.epoch_files import drop_epoch_models
from icu_ray.storage.files import file_system, join, list_dir, local_path
from icu_ray.storage.folders import remove
from icu_ray.storage.results import SILENT_SECONDS
from icu_ray.storage.trial_files import BEST, TrialPaths, read_result, trial_ids

_READERS = 16
_MODEL = ".model-"
_DRIVERS = ("beat.json", "sweep.json")
"""Files of a sweep's folder that its driver alone writes."""
_HALF = (".*.tmp", ".driver-*", ".icu-ray-writable-*")
"""Names of what is not written to its end, or only tried, beside them; 'icu-ray report' and drivers that wait for this
one write such files too, but none that takes SILENT_SECONDS."""


def remove_leftovers(storage: str, sweep: str, *, epochs: bool = False) -> None:
    """Remove what earlier runs of a sweep left; only its driver may, for nobody else is writing then.

    epochs: whether models of epochs are still to be evaluated (evaluation.when=epochs).
    """
    folder = local_path(join(storage, sweep))
    if folder is not None:
        for name in _DRIVERS:
            for half in folder.glob(f".{name}.*.tmp"):
                remove(str(half))
        _remove_old_halves(folder)
    else:
        _remove_old_clocks(join(storage, sweep))
    paths = [TrialPaths.of(storage, sweep, trial_id) for trial_id in trial_ids(storage, sweep)]
    with ThreadPoolExecutor(_READERS) as pool:  # a remote storage answers after tens of milliseconds
        list(pool.map(partial(_remove_of_trial, epochs=epochs), paths))


def _remove_old_halves(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        # Written a moment ago, by this driver: what the clock of the storage says now.
        now = (folder / "sweep.json").stat().st_mtime
        for place in (folder, *(folder / name for name in ("trials", "logs", "report"))):
            for half in [half for name in _HALF for half in place.glob(name)]:
                with contextlib.suppress(FileNotFoundError):  # it was whole just now
                    if now - half.stat().st_mtime > SILENT_SECONDS:
                        remove(str(half))


def _remove_old_clocks(url: str) -> None:
    """The same of a bucket, where all that is put is whole: files that told a driver its time (sweep/lease.py)."""
    filesystem, inside = file_system(url)
    filesystem.invalidate_cache()
    with contextlib.suppress(FileNotFoundError, NotImplementedError):
        now = filesystem.modified(f"{inside}/sweep.json")
        for clock in filesystem.glob(f"{inside}/.clock-*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # the driver that put it there has removed it
                if (now - filesystem.modified(clock)).total_seconds() > SILENT_SECONDS:
                    filesystem.rm(clock)


def _remove_of_trial(paths: TrialPaths, epochs: bool) -> None:
    remove_unfinished(paths)
    names = list_dir(paths.root)
    if paths.epochs.rpartition("/")[2] in names:
        drop_epoch_models(paths, whole=not epochs)
    there = {join(paths.root, name) for name in names} & {paths.checkpoint, paths.error}
    there |= {join(paths.root, name) for name in names if name.startswith(BEST)}
    if there and _is_done(paths):
        for url in there:
            remove(url)


def _is_done(paths: TrialPaths) -> bool:
    try:
        result = read_result(paths)
    except UserError:  # whoever needs it says so
        return False
    return result is not None and result.status != "failed"


def remove_unfinished(paths: TrialPaths) -> None:
    """Remove files and models of a trial that were not written to their end; a remote storage shows none."""
    folder = local_path(paths.root)
    if folder is not None:
        # The driver writes what it evaluates of epochs while a trial runs.
        for name in (f"{_MODEL}*", ".*.tmp", f"epochs/{_MODEL}*"):
            for half in folder.glob(name):
                remove(str(half))


@contextlib.contextmanager
def unfinished_model(folder: Path) -> Iterator[Path]:
    """A folder for a model on its way into a trial's `folder`."""
    with tempfile.TemporaryDirectory(prefix=_MODEL, dir=folder) as made:
        yield Path(made)
