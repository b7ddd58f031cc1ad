"""The models that a command asks from outside, by what the user typed, and the Ray that asks them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from icu_ray.cluster.runtime import connected
from icu_ray.config import ModelConfig
from icu_ray.console.redirect import redirected_output
from icu_ray.errors import UserError
from icu_ray.models.subjects import Subject
from icu_ray.training.preloading import PRELOAD


def described(models: Sequence[str], revision: str | None, trust_remote_code: bool) -> list[ModelConfig]:
    """Hub ids, folders or GGUF files as a config has them; nothing is looked at yet.

    revision: of those on the hub. UserError where none is: it would change nothing.
    """
    from icu_ray.models.hub import looks_local

    local = [model for model in models if looks_local(model)]
    if revision is not None and len(local) == len(models):
        raise UserError(
            f"--revision {revision}: {', '.join(local)}: of this machine; expected a model on the hub, the only ones "
            "that have revisions"
        )
    return [
        ModelConfig(
            name="asked",
            source=model,
            revision=None if model in local else revision,
            trust_remote_code=trust_remote_code,
        )
        for model in models
    ]


def subjects_of(models: Sequence[ModelConfig], precision: str) -> list[Subject]:
    """The same as models that can be asked: the files are here, and hashed."""
    from icu_ray.models.fingerprints import folder_fingerprint
    from icu_ray.models.gguf_files import is_gguf
    from icu_ray.models.hub import looks_local
    from icu_ray.models.loading import local_folder

    subjects = []
    for asked in models:
        assert asked.source is not None
        model = asked.source
        found = local_folder(model, asked.revision)
        subjects.append(
            Subject(
                name=Path(model).stem if is_gguf(model) else found.resolve().name if looks_local(model) else model,
                source=_everywhere(model, found),
                hash=folder_fingerprint(found),
                dtype="bfloat16" if precision == "bf16" else "float32",
                revision=asked.revision,
                trust_remote_code=asked.trust_remote_code,
            )
        )
    return subjects


def _everywhere(model: str, folder: Path) -> str:
    """A model's source as every node takes it: what a GGUF file was converted to lies on this machine alone."""
    from icu_ray.models.gguf_files import SMOLLM2, is_gguf
    from icu_ray.models.hub import looks_local

    if is_gguf(model):
        return model if model == SMOLLM2 else str(Path(model).resolve())
    return str(folder.resolve()) if looks_local(model) else model


@contextlib.contextmanager
def quietly_connected(log: Path) -> Iterator[None]:
    """A Ray whose own words go to `log`."""
    with redirected_output(log), connected(preload=PRELOAD):
        yield
