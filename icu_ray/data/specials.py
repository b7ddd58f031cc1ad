"""What a tokenizer adds around a text, found by trying it, and encoding without that.

specials = specials_of(tokenizer)
ids = encode(tokenizer, texts)          # without special tokens
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Specials:
    """What a tokenizer adds around a text, and its padding and end-of-text ids."""

    lead: tuple[int, ...]
    trail: tuple[int, ...]
    pad_id: int
    eos_id: int | None

    def surround(self, ids: Sequence[int], length: int) -> list[int]:
        """lead + ids + trail in at most `length` tokens, ids cut on the right."""
        return [*self.lead, *ids[: length - len(self.lead) - len(self.trail)], *self.trail]

    def whole(self, ids: Sequence[int]) -> int:
        """Tokens of a whole text with what stands around it."""
        return len(self.lead) + len(ids) + len(self.trail)

    def start(self) -> list[int]:
        """What stands before a text of which nothing is known."""
        return [*self.lead] or [self.pad_id if self.eos_id is None else self.eos_id]


def specials_of(tokenizer: PreTrainedTokenizerBase) -> Specials:
    """The special tokens of a tokenizer, found by encoding a text that it knows with and without them."""
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pad_id is None:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: has neither a padding nor an end-of-text token")
    special = set(tokenizer.all_special_ids)
    for text in _known_texts(tokenizer, special):
        bare = encode(tokenizer, (text,))[0]
        if not bare or special & set(bare):
            continue
        whole = list(tokenizer(text, add_special_tokens=True)["input_ids"])
        for at in range(len(whole) - len(bare) + 1):
            if whole[at : at + len(bare)] == bare:
                return Specials(tuple(whole[:at]), tuple(whole[at + len(bare) :]), int(pad_id), tokenizer.eos_token_id)
    raise UserError(
        f"tokenizer {tokenizer.name_or_path}: cannot tell which special tokens it puts around a text; expected one "
        "that encodes some word of its vocabulary without unknown or special tokens"
    )


def _known_texts(tokenizer: PreTrainedTokenizerBase, special: set[int]) -> Iterator[str]:
    """A letter, which most tokenizers know, then what single tokens of the vocabulary stand for."""
    yield "a"
    for number in itertools.islice((n for n in range(len(tokenizer)) if n not in special), 2000):
        text = str(tokenizer.decode([number], clean_up_tokenization_spaces=False))
        if text.strip() and "\ufffd" not in text:
            yield text


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, without special tokens."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]
