"""What the folders of a config's two encoders tell before anything starts: filter.encoder's and pairs.encoder's.

    folder = encoder_files("filter.encoder", "./my-bert", layer=9)     # light: neither torch nor transformers
    check_encoder_class(folder, "filter.encoder", "./my-bert", layer=9)

A BERTScore encoder is one BERT-shaped model. An encoder of sentences is a folder of sentence-transformers, with modules
of that package alone, or a model that transformers knows. Weights are read where an encoder is loaded
(data/encoder.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icu_ray.data.encoder import BUNDLED, bundled_encoder, check_layer, check_loaded, encoder_named, explained_encoder
from icu_ray.errors import UserError
from icu_ray.models.folders import check_folder
from icu_ray.models.hub import TOKENIZER_FILES, cached_folder, looks_local

MODULES = "modules.json"
_PACKAGE = "sentence_transformers."


def encoder_files(key: str, source: str, layer: int | None) -> Path | None:
    """Folder of an encoder's transformer, its files checked; None: none, or a hub id that is not in the local cache.

    key: filter.encoder or pairs.encoder. layer: filter.encoder_layer. The files of 'bundled' are taken as they are.
    """
    if source == BUNDLED:
        _check_layer(bundled_encoder(), source, layer)
        return bundled_encoder()
    named = encoder_named(key, source)
    local = looks_local(source)
    with explained_encoder(key, source):  # a name that no hub has
        folder = Path(source) if local else cached_folder(source, None, weights=False)
    if folder is None or not (local or (folder / "config.json").is_file()):
        return None
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{named}: {found}; give a hub id, the folder of an encoder, or '{BUNDLED}'")
    parts = [folder]
    if key == "pairs.encoder":
        if (folder / MODULES).is_file():
            parts = _parts(folder, named)
        elif not (folder / "config.json").is_file():
            raise UserError(f"{named}: holds no sentence encoder (no {MODULES} or config.json)")
    for part in dict.fromkeys((folder, *parts)):
        for path in sorted(part.glob("*.json")) if part.is_dir() else ():
            _read(path, folder, named)
    if not parts:
        return None
    if not local and not any((parts[0] / name).is_file() for name in TOKENIZER_FILES):
        return None  # not all of it is in the cache yet
    check_folder(parts[0], named, weights=local, expected="an encoder")
    _check_layer(parts[0], source, layer)
    return parts[0]


def _check_layer(folder: Path, source: str, layer: int | None) -> None:
    if layer is not None:
        described = json.loads((folder / "config.json").read_bytes())
        layers = described.get("num_hidden_layers") if isinstance(described, dict) else None
        if isinstance(layers, int):
            check_layer(source, layers, layer)


def _parts(folder: Path, named: str) -> list[Path]:
    """Folders of an encoder's modules, the transformer's first; none where its first module is no transformer."""
    modules: Any = _read(folder / MODULES, folder, named)
    shaped = isinstance(modules, list) and modules
    if not shaped or not all(
        isinstance(module, dict) and isinstance(module.get("path"), str) and isinstance(module.get("type"), str)
        for module in modules
    ):
        raise UserError(f"{named}: {MODULES}: expected a list of modules, each with its path and type")
    for module in modules:
        if not module["type"].startswith(_PACKAGE):
            raise UserError(
                f"{named}: {MODULES} names {module['type']!r}, its own code, which is never run; expected only modules "
                "of sentence-transformers"
            )
        if not (folder / module["path"]).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{named}: {MODULES} names {module['path']!r}; expected only folders of this folder")
    if not modules[0]["type"].endswith(".Transformer"):
        return []
    return [folder / module["path"] for module in modules]


def _read(path: Path, folder: Path, named: str) -> object:
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{named}: {path.relative_to(folder)} cannot be read as JSON: {error}") from error
    return value


def check_encoder_class(folder: Path, key: str, source: str, layer: int | None) -> None:
    """Refuse an encoder that transformers cannot build, or which BERTScore cannot use; reads no weights.

    layer: filter.encoder_layer.
    """
    with explained_encoder(key, source):
        import torch
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
        check_loaded(model, tokenizer, key, source, layer)
