"""The vocabulary that wrote a source's token rows (GPT-2's for the extraction benchmark): its size, decoding, identity.

Uses the `tokenizers` package alone, so that checking input loads no model library.

    texts = decode_rows(load_vocabulary("data/gpt2_tokenizer"), token_rows)
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models

from icu_ray.errors import UserError

GPT2_NAMES = ("gpt2", "openai-community/gpt2")
GPT2_SIZE = 50257
GPT2_END = "<|endoftext|>"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_HOW = "give the folder of a copy (data.tokenizer=DIR); `icu-ray data fetch` puts GPT-2's into data/gpt2_tokenizer"


def _folder_files(name: str) -> tuple[Path, ...] | None:
    """The files that define the tokenizer of a folder; None when `name` is a hub id."""
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists() or not _HUB_ID.fullmatch(name):
            raise UserError(f"data.tokenizer: {name} is no folder and no hub id; {_HOW}")
        return None
    if (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.json",)
    pair = (folder / "vocab.json", folder / "merges.txt")
    if all(path.is_file() for path in pair):
        return pair
    raise UserError(
        f"data.tokenizer: folder {name} holds neither tokenizer.json nor vocab.json with merges.txt; {_HOW}"
    )


def vocabulary_fingerprint(name: str) -> str:
    """Identity of what decodes the rows: the content of a folder's tokenizer files, or the hub id itself."""
    files = _folder_files(name)
    if files is None:
        return f"hub:{name}"
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"


def vocabulary_size(name: str) -> int | None:
    """Number of token ids; None for a hub id that is not on this machine yet (checked again when it is loaded)."""
    if _folder_files(name) is not None:
        return load_vocabulary(name).get_vocab_size()
    if name in GPT2_NAMES:
        return GPT2_SIZE
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "tokenizer.json")
    return load_vocabulary(name).get_vocab_size() if isinstance(cached, str) else None


@functools.lru_cache(maxsize=4)
def load_vocabulary(name: str) -> Tokenizer:
    """The tokenizer of a folder or hub id."""
    files = _folder_files(name)
    try:
        if files is None:
            from huggingface_hub import hf_hub_download

            files = (Path(hf_hub_download(name, "tokenizer.json")),)
        if len(files) == 1:
            return Tokenizer.from_file(str(files[0]))
        tokenizer = Tokenizer(models.BPE.from_file(str(files[0]), str(files[1])))
        tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment,unused-ignore]
        return tokenizer
    except Exception as error:  # the hub client and the Rust reader raise many kinds, all meaning 'no tokenizer here'
        raise UserError(f"data.tokenizer: {name} cannot be loaded ({type(error).__name__}: {error}); {_HOW}") from error


def padding_of(name: str) -> tuple[int | None, int | None]:
    """Ids of the padding and the end-of-text token of a folder or hub id, None where it has none.

    Without a padding token end-of-text is the padding, as for models. GPT-2's name for it counts where nothing else is
    said.
    """
    vocabulary = load_vocabulary(name)
    named: dict[str, Any] = {}
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        described = _described(name, file)
        for key in ("pad_token", "eos_token"):
            token = described.get(key)
            named[key] = (token.get("content") if isinstance(token, dict) else token) or named.get(key)
    eos, pad = (
        None if not isinstance(token, str) else vocabulary.token_to_id(token)
        for token in (named["eos_token"] or GPT2_END, named["pad_token"])
    )
    return (eos if pad is None else pad), eos


def _described(name: str, file: str) -> dict[str, Any]:
    path: object = Path(name) / file
    if _folder_files(name) is None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(name, file)
    try:
        found = json.loads(Path(path).read_bytes()) if isinstance(path, str | Path) else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def decode_rows(tokenizer: Tokenizer, rows: NDArray[np.int64], cleanup: bool = False) -> list[str]:
    """Texts of (N, T) token rows, special tokens kept."""
    texts: list[str] = tokenizer.decode_batch(rows.tolist(), skip_special_tokens=False)
    return [clean_up(text) for text in texts] if cleanup else texts


def clean_up(text: str) -> str:
    """English spacing before punctuation and contractions removed, as transformers decoded by default before 4.45."""
    for written in (".", "?", "!", ","):
        text = text.replace(f" {written}", written)
    text = text.replace(" ' ", "'")
    for written in ("n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {written}", written)
    return text
