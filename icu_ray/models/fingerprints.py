"""What decides a model, as part of a trial's identity: settings, hub revision, or the content of a folder.

identity = model_fingerprint(config.models[0])
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from icu_ray.config import ModelConfig
from icu_ray.models.content_hashes import content_hashes
from icu_ray.models.folders import adapter_of
from icu_ray.models.gguf_files import gguf_fingerprint, is_gguf
from icu_ray.models.hub import commit_of


def model_fingerprint(model: ModelConfig, chats: bool = False) -> dict[str, Any]:
    """What decides a model: stand-in settings, hub id and commit, or the content of a local folder or file; and how it
    is fine-tuned here.

    A model of the hub is known by the commit that it has here or there now; where neither tells, by the revision asked.
    chats: whether it reads chats, so that a folder's chat templates decide too that lie in files of their own.
    """
    if model.standin is not None:
        return {"standin": model.standin.model_dump(mode="json")}
    assert model.source is not None
    base = source_fingerprint(model.source, model.revision, chats)
    if model.train is None:
        return base
    how = model.train.model_dump(mode="json", exclude={"micro_batch", "data"})
    if model.train.weight_decay > 0:
        # Of before, where biases and norms decayed too, are other models.
        how["decay"] = "without biases and norms"
    if model.train.data is not None:
        how["data"] = [digest.hex() for _, digest in content_hashes([Path(model.train.data)])]
    return {**base, "train": how}


def source_fingerprint(source: str, revision: str | None = None, chats: bool = False) -> dict[str, Any]:
    """The same of a source: hub id and commit, or the content of a folder or file."""
    if is_gguf(source):
        return gguf_fingerprint(source)
    folder = Path(source)
    if not folder.is_dir():
        return {"hub": source, "revision": commit_of(source, revision)}
    adapter = adapter_of(folder, f"model {source}")
    found: dict[str, Any] = {"content": folder_fingerprint(folder)}
    if chats and adapter is not None and not adapter.has_tokenizer:
        found["base"] = source_fingerprint(adapter.base, adapter.revision, chats)
    templates = sorted((*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")))
    if chats and templates:
        parts = [
            f"{path.relative_to(folder)}:".encode() + hashlib.sha256(path.read_bytes()).digest() for path in templates
        ]
        found["chat_templates"] = hashlib.sha256(b"".join(parts)).hexdigest()
    return found


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over names, sizes and whole contents of a model folder's files: weights, vocabulary, and own code.

    Of an adapter's folder: over these and over what decides its base.
    """
    kinds = {".json", ".safetensors", ".bin", ".model", ".txt", ".tiktoken", ".py"}
    paths = sorted(path for path in folder.iterdir() if path.suffix in kinds and path.is_file())
    digest = hashlib.sha256()
    for path, (size, content) in zip(paths, content_hashes(paths), strict=True):
        digest.update(f"{path.name}:{size}:".encode())
        digest.update(content)
    if (adapter := adapter_of(folder, f"model {folder}")) is not None:
        base = source_fingerprint(adapter.base, adapter.revision)
        digest.update(json.dumps(base, sort_keys=True).encode())
    return digest.hexdigest()
