"""A model as those meet it who ask it questions from outside: where it is, how it is loaded, and what its files are.

subject = Subject("before", "gpt2-folder", hash)
loaded = load_subject(subject)                # on a GPU where this process has one
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from icu_ray.errors import UserError, without_secrets
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.folders import ADAPTER_CONFIG
from icu_ray.models.loading import Dtype, LoadedModel, load_model, local_folder, with_base
from icu_ray.storage.files import file_system
from icu_ray.storage.folders import fetched


@dataclass(frozen=True)
class Subject:
    """A model that is asked. source: hub id, folder (the same on every node) or fsspec URL of one. hash: of its files.

    recorded: whether the hash is an earlier record, against which the files are checked before they are used.
    """

    name: str
    source: str
    hash: str
    dtype: Dtype = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    recorded: bool = False

    @contextmanager
    def folder(self, *, weights: bool = True) -> Iterator[str]:
        """The source as `load_model` takes it; a remote folder is copied for the while."""
        if "://" not in self.source:
            yield self.source
            return
        with fetched(self.source, without=() if weights else (".safetensors", ".bin")) as folder:
            yield str(folder)


def load_subject(subject: Subject) -> LoadedModel:
    """The model, on a GPU where this process has one. UserError where its files are not those whose hash was
    recorded."""
    import torch

    with subject.folder() as source:
        check_recorded(subject, source)
        loaded = load_model(
            source,
            revision=subject.revision,
            trust_remote_code=subject.trust_remote_code,
            dtype=subject.dtype,
        )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        loaded.model.to("cuda")  # type: ignore[arg-type]
    return loaded


def check_recorded(subject: Subject, source: str) -> None:
    """UserError where the files in `source`, which `subject.folder()` gave, are not those whose hash was recorded."""
    if subject.recorded and folder_fingerprint(local_folder(source, subject.revision)) != subject.hash:
        raise UserError(
            f"{without_secrets(subject.source)}: its files have changed since their SHA-256 {subject.hash[:12]} was "
            "recorded; put those back, or remove the trial's result.json to run it again"
        )


def weight_bytes(subject: Subject) -> int:
    """Size of a model's weight files, in a folder, behind a URL or in the hub's cache; 0 where it is not there yet.

    Of an adapter those of its base count.
    """
    if "://" in subject.source:
        filesystem, inside = file_system(subject.source)
        found = filesystem.ls(inside, detail=True)
        if not any(str(each["name"]).endswith(f"/{ADAPTER_CONFIG}") for each in found):
            return sum(int(each["size"]) for each in found if str(each["name"]).endswith((".safetensors", ".bin")))
    try:
        with subject.folder(weights=False) as source:
            here = local_folder(source, subject.revision, weights="://" not in subject.source)
            folder, _ = with_base(here, source)
    except UserError:
        return 0
    return sum(p.stat().st_size for kind in ("*.safetensors", "*.bin") for p in folder.glob(kind))
