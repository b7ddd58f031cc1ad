"""The folders of models that a trial leaves: the unlearned one, and those after its epochs (evaluation.when=epochs).

    model_hash = save_model(loaded, paths, described)              # in the end; an adapter is merged where asked for
    with report.as_left(): save_epoch_model(loaded, paths, described, epoch=3)      # training goes on after it

A folder is there whole or not at all.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from icu_ray.errors import without_secrets
from icu_ray.models.adapters import has_adapter, merge_adapter, save_adapter, save_merged
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.storage.epoch_files import drop_epoch_model, epoch_model, kept_hash, mark_whole
from icu_ray.storage.files import local_path
from icu_ray.storage.folders import put, remove
from icu_ray.storage.leftovers import remove_unfinished, unfinished_model
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.retry import with_retries
from icu_ray.storage.trial_files import TrialPaths

if TYPE_CHECKING:
    from icu_ray.config import ModelConfig
    from icu_ray.models.loading import LoadedModel

log = logging.getLogger(__name__)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def save_model(loaded: LoadedModel, paths: TrialPaths, described: ModelConfig) -> str:
    """The unlearned model and its tokenizer, whole or not at all; the hash of their files."""
    # The gold standard has none, whatever its model's trials train.
    save = "merged" if described.lora is None or not has_adapter(loaded.model) else described.lora.save
    with scratch_folder() as adapter:
        if save != "merged":
            _save_adapter(loaded, adapter, described)
        if has_adapter(loaded.model) and save != "adapter":
            merge_adapter(loaded.model)
        parts = {"adapter": {"": adapter}, "merged": {}, "both": {"adapter": adapter}}[save]

        def write(folder: Path) -> None:
            if save != "adapter":
                loaded.model.save_pretrained(folder)
            for place, part in parts.items():
                shutil.copytree(part, folder / place, dirs_exist_ok=True)
            loaded.tokenizer.save_pretrained(folder)

        return with_retries(lambda: _put(write, paths, paths.model), paths.model)


def save_epoch_model(loaded: LoadedModel, paths: TrialPaths, described: ModelConfig, epoch: int) -> None:
    """The model after an epoch, which stays as it is; of one with an adapter that alone, where its base has a name.

    Training does not wait for room: where there is none, the epoch has no model, which is logged.
    """
    adapter = has_adapter(loaded.model)

    def write(folder: Path) -> None:
        if adapter and described.made_here:  # its base lies in the sweep's store, by which no other node may find it
            save_merged(loaded.model, folder)
        elif adapter:
            _save_adapter(loaded, folder, described)
        else:
            loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)

    target = epoch_model(paths, epoch)

    def attempt() -> None:
        try:
            model_hash = _put(write, paths, target, known=kept_hash(paths, epoch))
            mark_whole(paths, epoch, model_hash)
        except (OSError, SafetensorError) as error:
            if not _is_full(error):
                raise
            drop_epoch_model(paths, epoch)
            log.warning("%s: no room for this model, which is not evaluated", without_secrets(target))

    with_retries(attempt, target)


def _is_full(error: Exception) -> bool:
    """safetensors tells what the system said in words alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {number})" in str(error) for number in _FULL)


def _save_adapter(loaded: LoadedModel, folder: Path, described: ModelConfig) -> None:
    assert described.source is not None
    save_adapter(loaded.model, folder, described.source, described.revision)


def _put(write: Callable[[Path], None], paths: TrialPaths, url: str, known: str | None = None) -> str:
    """Have `write` fill a folder and put it in the place of `url`; its hash.

    known: hash of what is there already; where it is the same nothing is exchanged.
    """
    remove_unfinished(paths)
    target = local_path(url)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder() if target is None else unfinished_model(target.parent) as folder:
        write(folder)
        model_hash = folder_fingerprint(folder)
        if model_hash == known:
            return model_hash
        remove(url)
        if target is not None:
            os.chmod(folder, 0o755)  # mkdtemp's folders are for their owner alone; results are for whoever may read
            os.rename(folder, target)
            os.mkdir(folder)  # for the context manager to remove
        else:
            put(str(folder), url)
    return model_hash
