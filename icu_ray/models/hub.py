"""Where a model's files are; models of the hub by commit, only what is loaded, from the local cache if it is there.

folder = cached_folder("EleutherAI/gpt-neo-125m", commit) or download("EleutherAI/gpt-neo-125m", commit)
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icu_ray.console.progress import listener
from icu_ray.data.hub_repository import Trouble, hub_told
from icu_ray.errors import UserError, did_you_mean
from icu_ray.models.gguf_files import converted_folder, is_gguf

log = logging.getLogger(__name__)
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("spiece.model", "spm.model", "sentencepiece.bpe.model"),
)
TIMEOUT_SECONDS = 10.0


def looks_local(source: str) -> bool:
    """Whether a source means a folder or a file: it is there, or it is written like a path."""
    if is_gguf(source):
        return True
    written_so = source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source
    return written_so or (bool(source) and Path(source).exists())


@functools.cache
def commit_of(source: str, revision: str | None = None) -> str | None:
    """The commit that a hub's model has here, or else on the hub now; `revision` for a folder, or where neither tells.

    A branch is taken at the commit at which the hub client's cache has it, so that what follows is of the same model.
    """
    if looks_local(source):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    api = HfApi()
    try:
        return str(api.resolve_revision(source, revision=revision, local_files_only=True).resolved)
    except RevisionResolutionError:
        pass
    try:
        return str(api.resolve_revision(source, revision=revision).resolved)
    except Exception as error:  # of many kinds; where the model is loaded it is said what to do
        log.info("%s: the hub does not give its commit (%s)", source, type(error).__name__)
        return revision


def is_pinned(source: str, revision: str | None = None) -> bool:
    """Whether it is known which model is meant: a folder, or one of the hub whose commit is known."""
    return looks_local(source) or re.fullmatch("[0-9a-f]{40}", commit_of(source, revision) or "") is not None


def folder_here(source: str, revision: str | None = None) -> Path | None:
    """The folder of a model without its weights, as far as it is on this machine already; None: not yet."""
    if is_gguf(source):
        folder = converted_folder(source)
        return folder if folder.is_dir() else None
    if looks_local(source):
        return Path(os.path.expanduser(source))
    return cached_folder(source, revision, weights=False)


def cached_folder(source: str, commit: str | None, weights: bool = True) -> Path | None:
    """The folder of a model's files in the local cache, if all of them are there."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=commit, local_files_only=True))
    except IncompleteSnapshotError as error:
        # Something of the repository is missing as a rule: weights of other frameworks are not loaded.
        folder = Path(error.snapshot_path)
        names = [file.path for file in get_cached_repo_tree(source, revision=commit)]
        return folder if all((folder / name).is_file() for name in _wanted(names, weights)) else None
    except LocalEntryNotFoundError:
        return None


def download(source: str, commit: str | None, weights: bool = True) -> Path:
    """What is missing of a model's files; UserError with what to do where it cannot be had."""
    from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

    where = f"model {source}" + (f" at revision {commit}" if commit else "")
    with _explained(where, _MODEL_INSTEAD, source):
        info = HfApi().model_info(source, revision=commit, files_metadata=True, timeout=TIMEOUT_SECONDS)
        files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
        wanted = _wanted(files, weights)
        size = sum(
            files[name]
            for name in wanted
            if not isinstance(try_to_load_from_cache(source, name, revision=info.sha), str)
        )
        bar = _telling_bar(f"downloading {source}", size)
        return Path(snapshot_download(source, revision=commit, allow_patterns=wanted, tqdm_class=bar))


def require_reachable(source: str, revision: str | None = None, *, pickles: bool = True) -> None:
    """UserError with what to do for a model that is neither on this machine nor on a hub that answers.

    pickles: False: also for one of which the hub has no safetensors.
    """
    if looks_local(source) or _has_weights(cached_folder(source, commit_of(source, revision))):
        return
    where = f"model {source}" + (f" at revision {revision}" if revision else "")
    names = _require_answer(source, revision, where, _MODEL_INSTEAD, source)
    if not pickles and not any(name.endswith(".safetensors") for name in names):
        raise UserError(f"{where}: the hub has no safetensors of it; expected some, as its pickles are not read")


def require_encoder_reachable(named: str, source: str, instead: str) -> None:
    """The same of an encoder. instead: what to give without a network."""
    if not looks_local(source) and not _has_weights(cached_folder(source, None)):
        _require_answer(source, None, named, instead)


def _has_weights(folder: Path | None) -> bool:
    """Whether a folder of the cache has what is loaded last; another tool may have fetched less than all."""
    return folder is not None and any(
        file.suffix in (".safetensors", ".bin", ".gguf") for file in folder.rglob("*") if file.is_file()
    )


def _require_answer(source: str, revision: str | None, where: str, instead: str, near: str = "") -> list[str]:
    """The names of the repository's files."""
    from huggingface_hub import HfApi

    with _explained(where, instead, near):
        info = HfApi().model_info(source, revision=revision, timeout=TIMEOUT_SECONDS)
        return [sibling.rfilename for sibling in info.siblings or ()]


def _near(source: str) -> str:
    """The model folder here that is called almost like it."""
    here = []
    with contextlib.suppress(OSError):  # a folder that may not be read is no help
        for path in Path.cwd().iterdir():
            with contextlib.suppress(OSError):
                if (path / "config.json").is_file():
                    here.append(path.name)
    return did_you_mean(source, here)


_MODEL_INSTEAD = "give the path of a local folder that holds config.json, model.safetensors and the tokenizer's files"


def _explained(where: str, instead: str, near: str = "") -> contextlib.AbstractContextManager[None]:
    """What the hub's client raises inside becomes a UserError with what to do. near: what may be a folder's name."""

    def say(trouble: Trouble, error: Exception) -> str:
        if trouble == "name":
            return f"neither a folder here{_near(near)} nor a name that a hub can have"
        if trouble in ("revision", "repository"):
            return f"the hub knows no such model, and there is no folder of that name{_near(near)}"
        return (
            f"neither a folder here{_near(near)} nor in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}). Without a network {instead}"
        )

    return hub_told(where, say)


def _wanted(names: Iterable[str], weights: bool) -> list[str]:
    """Of a repository's files those to load: safetensors where there are any, else pickles; of no other framework."""
    top = [name for name in names if "/" not in name]
    wanted = [name for name in top if name.endswith((".json", ".txt", ".py")) or name in TOKENIZER_FILES]
    if weights:
        kind = ".safetensors" if any(name.endswith(".safetensors") for name in top) else ".bin"
        wanted += [name for name in top if name.endswith(kind)]
    return wanted


def _telling_bar(stage: str, size: int) -> Any:
    """The hub client's class of bars; where this thread has a listener, that is told of `size` bytes in their place."""
    from huggingface_hub.utils.tqdm import tqdm

    tell, most = listener(), 0

    class TellingBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            # There is one of what the network brings and one of what is on disk, beside one that counts files.
            self._of_bytes, self._bytes = options.get("unit") == "B", 0
            if tell is not None:
                options["disable"] = True
            super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal most
            if tell is not None and self._of_bytes:
                self._bytes += int(n or 0)
                most = max(most, self._bytes)
                tell(stage, min(1.0, most / size) if size else None)
            shown: bool | None = super().update(n)
            return shown

    return TellingBar
