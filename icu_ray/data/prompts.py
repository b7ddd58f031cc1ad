"""Rows of prompt and completion: the prompt is given, the completion is what must be forgotten or kept.

    text, boundary = joined("Who?", "Ada.", QUESTION_ANSWER)     # "Question: Who?\nAnswer: Ada.", 22
    rows = prompted_rows(examples, tokenizer, specials, columns, settings)

A text is encoded whole, as a model reads it. Its completion begins with the first token that encoding the prompt alone
does not give: where the border is inside a token, that token is the completion's, so that no part of an answer is
given away with the prompt. The tokenizer's end-of-text comes after the completion, once, for a model that has learnt to
answer has learnt to stop; it is scored even where the tokenizer pads with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from icu_ray.config import Columns, TokensConfig
from icu_ray.data.examples import IGNORED_LABEL, Examples, TokenRows
from icu_ray.data.long_texts import refuse_long_texts
from icu_ray.data.padding import left_pad
from icu_ray.data.specials import Specials, encode
from icu_ray.data.vocabulary import clean_up
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["completion", "all"]
QUESTION_ANSWER = ("Question: ", "\nAnswer: ")
"""What stands before a question and between it and its answer, as MUSE and many base models have it."""


def joined(prompt: str, completion: str, tags: tuple[str, str] = ("", "")) -> tuple[str, int]:
    """The text of a row, and how many of its characters are given.

    tags: what stands before and after the prompt. Without a blank at the border one space is put there. Blanks at the
    border are the completion's: tokenizers join them to the word that follows.
    """
    given = tags[0] + prompt + tags[1]
    head = given.rstrip(" ")
    between = given[len(head) :] or ("" if given[-1:].isspace() or completion[:1].isspace() else " ")
    return head + between + completion, len(head)


def prompted_rows(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials,
    columns: Columns,
    settings: TokensConfig,
    *,
    loss_on: LossOn = "completion",
    refuse: bool = False,
) -> TokenRows:
    """Texts with a boundary as a model with this tokenizer sees them.

    A completion that does not fit columns.length is cut; refuse: UserError. A prompt that fills a row by itself, and a
    completion without a token, are a UserError too.
    """
    assert examples.boundaries is not None
    whole = encode(tokenizer, examples.texts)
    heads = encode(tokenizer, [text[:end] for text, end in zip(examples.texts, examples.boundaries, strict=True)])
    trail = specials.trail or (() if specials.eos_id is None else (specials.eos_id,))
    lead, length = list(specials.lead), columns.length
    bodies, starts, prompts, lengths = [], [], [], []
    for name, ids, head in zip(examples.ids, whole, heads, strict=True):
        given = _common(ids, head)
        if given == len(ids):
            raise UserError(f"'{name}': its completion has no token of its own; expected some text after the prompt")
        if len(lead) + given >= length:
            raise UserError(
                f"'{name}': its prompt alone has {len(lead) + given} tokens and fills a row of {length} "
                "(columns.length; of icu-ray unlearn: --length); shorten it, or take longer rows"
            )
        end = trail if tuple(ids[-len(trail) :]) != trail else ()
        body = [*lead, *ids, *end]
        lengths.append(len(body))
        bodies.append(body[:length])
        starts.append(length - len(bodies[-1]) + len(lead) + given)
        prompts.append(lead + ids[:given] or specials.start())
    if refuse:
        refuse_long_texts(examples.ids, lengths, length, "rows.long=refuse")
    input_ids, mask = left_pad(bodies, length, specials.pad_id)
    labels = input_ids.copy()
    for row, (body, start) in enumerate(zip(bodies, starts, strict=True)):
        labels[row, : start if loss_on == "completion" else length - len(body) + max(len(lead), 1)] = IGNORED_LABEL
    prompt_ids, prompt_mask = left_pad(prompts, max(map(len, prompts), default=1), specials.pad_id)
    said = [
        str(tokenizer.decode(ids[start:].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for ids, start in zip(input_ids, starts, strict=True)
    ]
    return TokenRows(
        examples.ids,
        input_ids,
        mask,
        labels,
        prompt_ids,
        prompt_mask,
        tuple(clean_up(text) for text in said) if settings.cleanup else tuple(said),
        columns,
        specials.pad_id,
        specials.eos_id,
        settings.positions,
        tuple(lengths),
        starts=tuple(starts),
    )


def _common(ids: Sequence[int], head: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next(
        (place for place, (a, b) in enumerate(zip(ids, head, strict=False)) if a != b), min(len(ids), len(head))
    )
