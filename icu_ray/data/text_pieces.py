"""Long texts as pieces of as many tokens each, as MUSE and OpenUnlearning train on them.

    text_pieces(["one long text", "another"], tokenizer, 2048)      # texts of 2,048 tokens, the last is shorter
    write_pieces(Path("forget.jsonl"), tokenizer, 2048, Path("forget-2048.jsonl"))     # icu-ray data pieces

All texts are joined by an empty line, tokenised once without special tokens, cut, and decoded: a piece is a text again,
and is tokenised anew, behind the tokenizer's own begin of text, where it is read. So it may have a token more or less
than it was cut to. A character of several tokens that is cut apart is lost (U+FFFD).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.data.forms import kind_of
from icu_ray.data.prompt_styles import Conventions
from icu_ray.data.specials import encode
from icu_ray.data.table_files import read_columns
from icu_ray.errors import UserError
from icu_ray.storage.files import write_atomic

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def text_pieces(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, tokens: int, conventions: Conventions = "default"
) -> list[str]:
    """The joined texts in pieces of so many tokens.

    conventions: open_unlearning has floor(n / tokens) + 1 pieces of n tokens, so the last one may be empty.
    """
    (ids,) = encode(tokenizer, ["\n\n".join(texts)])
    end = len(ids) if conventions == "default" else tokens * (len(ids) // tokens + 1)
    return [
        str(tokenizer.decode(ids[start : start + tokens], clean_up_tokenization_spaces=False))
        for start in range(0, end, tokens)
    ]


def write_pieces(
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    out: Path,
    *,
    column: str = "text",
    shortest: int = 0,
) -> tuple[int, int]:
    """Write the pieces of a file's texts as a file of texts; how many texts were read, and pieces written.

    shortest: texts of fewer characters are left out. UserError for a file that cannot be read, or holds no such texts.
    """
    texts = []
    for where, (text,) in read_columns(file, (column,), "data pieces"):
        if not isinstance(text, str):
            raise UserError(f"data pieces: {file}: {where}: column '{column}' holds {kind_of(text)}, expected text")
        if text.strip() and len(text) >= shortest:
            texts.append(text)
    if not texts:
        least = f" of at least {shortest} characters" if shortest else ""
        raise UserError(f"data pieces: {file}: column '{column}' holds no text{least}")
    pieces = text_pieces(texts, tokenizer, tokens)
    write_atomic(str(out), "".join(json.dumps({"text": piece}, ensure_ascii=False) + "\n" for piece in pieces).encode())
    return len(texts), len(pieces)
