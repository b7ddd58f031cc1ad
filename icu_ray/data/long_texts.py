"""Texts that have more tokens than a row: counted, named, refused.

lengths = token_counts(["one text", ...], tokenizer)            # as a model with this tokenizer sees them
long_texts_said(("a", "b"), lengths, 200)                       # '1 of 2 texts is longer than 200 tokens: a (312)'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from icu_ray.errors import UserError

LongTexts = Literal["cut", "windows", "refuse"]
_NAMED = 5
MOST = 4096
"""Tokens of the longest row (config/data.py)."""


def window_starts(tokens: int, room: int) -> tuple[int, ...]:
    """Where the windows of a text begin, each of at most `room` tokens; of a text that fits, at its beginning alone.

    Half a row lies between them, so every token but a text's first ones stands after half a row in one of them. The
    last ends with the text: none of a long text is padded.
    """
    last = max(tokens - room, 0)
    return (*range(0, last, max(room // 2, 1)), last)


def long_texts_said(ids: Sequence[str], lengths: Sequence[int], length: int) -> str:
    """How many of the texts are longer than a row of `length` tokens, and which, the longest first; '' where none is.

    lengths: tokens of each whole text.
    """
    found = sorted(zip(lengths, ids, strict=True), key=lambda item: (-item[0], item[1]))
    found = [item for item in found if item[0] > length]
    if not found:
        return ""
    named = ", ".join(f"{name} ({count})" for count, name in found[:_NAMED])
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    verb = "is" if len(found) == 1 else "are"
    return f"{len(found)} of {len(ids)} texts {verb} longer than {length} tokens: {named}{more}"


def refuse_long_texts(
    ids: Sequence[str],
    lengths: Sequence[int],
    length: int,
    where: str,
    positions: int | None = None,
) -> None:
    """UserError where a text is longer than a row.

    where: what the user named; positions: the model's, where known.
    """
    said = long_texts_said(ids, lengths, length)
    if not said:
        return
    longest = max(lengths)
    if longest > min(positions or longest, MOST):
        most = min(positions or MOST, MOST)
        remedy = f"rows of this model have at most {most}; split these texts, or"
    else:
        remedy = f"set columns.length (of icu-ray unlearn: --length) to {longest}, or"
    raise UserError(
        f"{where}: {said}; {remedy} give rows.long=cut, which forgets only their beginning, or rows.long=windows, "
        "which forgets them whole, in overlapping pieces"
    )
