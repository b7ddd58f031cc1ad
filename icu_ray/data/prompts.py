"""Rows of prompt and completion: the prompt is given, the completion is what must be forgotten or kept.

    text, boundary = joined("Who?", "Ada.", ("Q: ", "\\nA: "))     # "Q: Who?\\nA: Ada.", 10
    rows = prompted_rows(examples, tokenizer, specials, columns, settings)

A text is encoded whole, as a model reads it. Its completion begins with the first token that encoding the prompt alone
does not give: where the border is inside a token, that token is the completion's, so that no part of an answer is
given away with the prompt. The tokenizer's end-of-text comes after the completion, once, for a model that has learnt to
answer has learnt to stop; it is scored even where the tokenizer pads with it. A chat ends with its turn: by the token
with which its template ends one, which for some models is not the end of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from icu_ray.config import Columns, TokensConfig
from icu_ray.data.chats import common, rendered, require_chat_template
from icu_ray.data.examples import IGNORED_LABEL, Examples, TokenRows
from icu_ray.data.long_texts import LongTexts, refuse_long_texts, window_starts
from icu_ray.data.padding import left_pad
from icu_ray.data.specials import Specials, encode
from icu_ray.data.vocabulary import clean_up
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LossOn = Literal["completion", "all"]


def joined(prompt: str, completion: str, tags: tuple[str, str] = ("", "")) -> tuple[str, int]:
    """The text of a row, and how many of its characters are given.

    tags: what stands before and after the prompt, taken exactly. Without tags, and without a blank at the border, one
    space is put there. Blanks at the border are the completion's: tokenizers join them to the word that follows.
    """
    given = tags[0] + prompt + tags[1]
    head = given.rstrip(" ")
    apart = any(tags) or given[-1:].isspace() or completion[:1].isspace()
    between = given[len(head) :] or ("" if apart else " ")
    return head + between + completion, len(head)


def prompted_rows(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials,
    columns: Columns,
    settings: TokensConfig,
    *,
    loss_on: LossOn = "completion",
    long: LongTexts = "cut",
) -> TokenRows:
    """Texts with a boundary as a model with this tokenizer sees them.

    long: what becomes of a completion that does not fit columns.length: it is cut, or its row becomes several that
    overlap, or UserError. A prompt that fills a row by itself, and a completion without a token, are a UserError too.
    """
    length, bodies, starts, prompts, lengths, texts = columns.length, [], [], [], [], []
    found = whole_rows(examples, tokenizer, specials)
    # A model ends its turn by the token that its chat template ends it with, which need not be the end of text.
    ends = {whole[-1] for whole, _ in found} if examples.chats is not None else set()
    for text, (name, (whole, given)) in enumerate(zip(examples.ids, found, strict=True)):
        refuse_full_prompt(name, given, length)
        pieces = _windows(whole, given, length, specials) if long == "windows" else [(whole[:length], given)]
        for body, told in pieces:
            texts.append(text)
            lengths.append(len(whole))
            bodies.append(body)
            starts.append(length - len(body) + told)
            prompts.append(body[:told] or specials.start())
    if long == "refuse":
        refuse_long_texts(examples.ids, lengths, length, "rows.long=refuse")
    lead = () if examples.chats is not None else specials.lead
    input_ids, mask = left_pad(bodies, length, specials.pad_id)
    labels = input_ids.copy()
    for row, (body, start) in enumerate(zip(bodies, starts, strict=True)):
        first = length - len(body) + max(len(lead), 1)  # before it nothing stands that could predict a token
        labels[row, : max(start, first) if loss_on == "completion" else first] = IGNORED_LABEL
    prompt_ids, prompt_mask = left_pad(prompts, max(map(len, prompts), default=1), specials.pad_id)
    said = [
        str(tokenizer.decode(ids[start:].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for ids, start in zip(input_ids, starts, strict=True)
    ]
    return TokenRows(
        tuple(examples.ids[text] for text in texts),
        input_ids,
        mask,
        labels,
        prompt_ids,
        prompt_mask,
        tuple(clean_up(text) for text in said) if settings.cleanup else tuple(said),
        columns,
        specials.pad_id,
        ends.pop() if len(ends) == 1 else specials.eos_id,
        settings.positions,
        tuple(lengths),
        tuple(texts) if len(texts) > len(examples.ids) else None,
        tuple(starts),
    )


def _windows(whole: list[int], given: int, length: int, specials: Specials) -> list[tuple[list[int], int]]:
    """The overlapping rows of one text, each with how many of its tokens are given.

    In the first it is the prompt. In the others it is half a row, which the row before has too, or what there is of the
    prompt if that is more: so every token of the completion is asked for, and has its own text before it.
    """
    if len(whole) <= length:
        return [(whole, given)]
    lead = list(specials.lead)
    if whole[: len(lead)] != lead:
        lead = []  # a chat template that begins otherwise
    room = length - len(lead)
    found = [(whole[:length], given)]
    for start in window_starts(len(whole), room)[1:]:
        found.append((lead + whole[start : start + room], len(lead) + max(given - start, room // 2)))
    return found


def whole_rows(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, specials: Specials
) -> list[tuple[list[int], int]]:
    """The tokens of each whole row and how many of them are given. UserError for a row without a completion.

    A chat template writes all that belongs to a chat; a text is given what the tokenizer puts before every text.
    """
    assert examples.boundaries is not None
    texts, boundaries, lead = list(examples.texts), list(examples.boundaries), list(specials.lead)
    if examples.chats is not None:
        require_chat_template(tokenizer)
        lead = []
        for row, (name, chat) in enumerate(zip(examples.ids, examples.chats, strict=True)):
            texts[row], boundaries[row] = rendered(chat, tokenizer, name)
    heads = encode(tokenizer, [text[:end] for text, end in zip(texts, boundaries, strict=True)])
    end = specials.trail or (() if specials.eos_id is None else (specials.eos_id,))
    special = special_ids(tokenizer)
    found = []
    for name, ids, head in zip(examples.ids, encode(tokenizer, texts), heads, strict=True):
        given = common(ids, head)
        if given == len(ids):
            raise UserError(f"'{name}': its completion has no token of its own; expected some text after the prompt")
        if examples.chats is not None:
            ids = ids[: end_of_turn(ids, given, special, tokenizer)]
            ended = ids[-1] in special
        else:
            ended = tuple(ids[-len(end) :]) == end
        found.append(([*lead, *ids, *(() if ended else end)], len(lead) + given))
    return found


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that stand for no text: end of text, end of turn and their like, with those that have no role."""
    named = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset((*tokenizer.all_special_ids, *named)) - {tokenizer.unk_token_id}


def end_of_turn(ids: Sequence[int], given: int, special: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Where a chat ends: behind the first special token after its answer; without one, at its last token.

    A template may write more there (a new line, an end of text), which a model that has ended its turn never says:
    counted, it would look forgotten.
    """
    place = len(ids)
    while place > given + 1 and (ids[place - 1] in special or not str(tokenizer.decode([ids[place - 1]])).strip()):
        place -= 1
    return next((at + 1 for at in range(place, len(ids)) if ids[at] in special), len(ids))


def refuse_full_prompt(name: str, given: int, length: int) -> None:
    """UserError where a prompt leaves no place for a token of its completion."""
    if given >= length:
        raise UserError(
            f"'{name}': its prompt alone has {given} tokens and fills a row of {length}; shorten it, or set "
            f"columns.length (of icu-ray unlearn: --length) to more than {given}"
        )
