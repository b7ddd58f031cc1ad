"""What decides a model, as part of a trial's identity: settings, hub revision, or the content of a folder.

identity = model_fingerprint(config.models[0])
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from icu_ray.config import ModelConfig


def model_fingerprint(model: ModelConfig) -> dict[str, Any]:
    """What decides a model: stand-in settings, hub id and revision, or the content of a local folder."""
    if model.standin is not None:
        return {"standin": model.standin.model_dump(mode="json")}
    assert model.source is not None
    folder = Path(model.source)
    if not folder.is_dir():
        return {"hub": model.source, "revision": model.revision}
    return {"content": folder_fingerprint(folder)}


FULL_HASH_BYTES = 512 * 1024**2


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 of a model folder: whole files up to 512 MiB, of larger ones the size and the first and last MiB."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".bin", ".model", ".txt"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= FULL_HASH_BYTES:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            else:
                digest.update(file.read(1024**2))
                file.seek(-(1024**2), 2)
                digest.update(file.read(1024**2))
    return digest.hexdigest()
