"""From source rows to rows of one model's vocabulary (spec 1.3, 1b: re-tokenisation, alignment).

Two ways of counting columns. The source's: rows of GPT-2 tokens are kept as they are when the model has that very
vocabulary (tokens.retokenize=auto), else decoded and encoded again, cut on the right and padded on the left to
`columns.length`; the filter's prompt is the source's prefix, its reference the source's suffix. The model's own
(stand-ins, users' texts): the text is encoded, its first `columns.length` tokens are the row, or with rows.long=windows
several rows that overlap hold all of it, and prefix and suffix are columns of that.

Tokenizers that put a BOS first: with alignment=fixed a label is the token of its own column and the BOS is not scored.
alignment=reference repeats the authors' slip: labels are the text without BOS, so a full row is scored two ahead.
A row's first token has nothing before it and is never scored, padded or not.

Texts with a boundary (prompt and completion) are rows of the model's own tokens, each with an own start (prompts.py).

    rows = tokenise(targets, tokenizer, Columns(), TokensConfig(), own_columns=False, prompt="prefix")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from icu_ray.config import Columns, TokensConfig
from icu_ray.data.examples import IGNORED_LABEL, Examples, TokenRows
from icu_ray.data.long_texts import LongTexts, refuse_long_texts, window_starts
from icu_ray.data.padding import left_pad
from icu_ray.data.prompts import LossOn, prompted_rows, whole_rows
from icu_ray.data.specials import Specials, encode, specials_of
from icu_ray.data.vocabulary import clean_up, decode_rows, load_vocabulary
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = Literal["prefix", "full"]


def tokenise(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    columns: Columns,
    settings: TokensConfig,
    *,
    own_columns: bool,
    prompt: Prompt = "prefix",
    long: LongTexts = "cut",
    loss_on: LossOn = "completion",
) -> TokenRows:
    """`examples` as a model with this tokenizer sees them; prompt 'full' is everything before the suffix.

    long: what becomes of texts that have more tokens than a row; 'refuse': UserError that counts and names them;
    'windows' (own_columns only): such a text is several rows. loss_on: what the losses count of texts with a boundary.
    """
    specials = specials_of(tokenizer)
    if examples.boundaries is not None:
        return prompted_rows(examples, tokenizer, specials, columns, settings, loss_on=loss_on, long=long)
    ids, texts = tuple(examples.ids), None
    if own_columns:
        plain = encode(tokenizer, examples.texts)
        lengths = tuple(specials.whole(tokens) for tokens in plain)
        if long == "windows" and max(lengths, default=0) > columns.length:
            texts, plain = _in_windows(plain, max(columns.length - specials.whole(()), 1))
            ids, lengths = tuple(ids[text] for text in texts), tuple(lengths[text] for text in texts)
        bodies = [specials.surround(tokens, columns.length) for tokens in plain]
        prompts, width, references = _own_parts(bodies, tokenizer, specials, columns, settings, prompt)
    else:
        plain, prompts, width, references = _source_parts(examples, tokenizer, specials, columns, settings, prompt)
        bodies = [specials.surround(tokens, columns.length) for tokens in plain]
        lengths = tuple(specials.whole(tokens) for tokens in plain)
    if long == "refuse":
        refuse_long_texts(examples.ids, lengths, columns.length, "rows.long=refuse")
    input_ids, mask = left_pad([body or specials.start() for body in bodies], columns.length, specials.pad_id)
    if settings.alignment == "reference":
        labels, scored = left_pad([tokens[: columns.length] for tokens in plain], columns.length, specials.pad_id)
    else:
        labels, scored = input_ids.copy(), mask.copy()
        for row, body in enumerate(bodies):
            start = columns.length - len(body)
            scored[row, start : start + max(len(specials.lead), 1)] = False
    # As coded: a label equal to the padding id is not scored, so where pad = EOS a genuine EOS is not either.
    labels[~scored | (labels == specials.pad_id)] = IGNORED_LABEL
    prompt_ids, prompt_mask = left_pad([tokens or specials.start() for tokens in prompts], width, specials.pad_id)
    return TokenRows(
        ids,
        input_ids,
        mask,
        labels,
        prompt_ids,
        prompt_mask,
        tuple(references),
        columns,
        specials.pad_id,
        specials.eos_id,
        settings.positions,
        lengths,
        texts,
    )


def _in_windows(plain: Sequence[Sequence[int]], room: int) -> tuple[tuple[int, ...], list[list[int]]]:
    """The number of each window's text, and the windows: at most `room` tokens of a text."""
    found = []
    for text, tokens in enumerate(plain):
        for start in window_starts(len(tokens), room):
            found.append((text, list(tokens[start : start + room])))
    return tuple(text for text, _ in found), [window for _, window in found]


def token_counts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens of each whole text, with the special tokens that the tokenizer puts around it."""
    specials = specials_of(tokenizer)
    return tuple(specials.whole(ids) for ids in encode(tokenizer, texts))


def row_lengths(
    examples: Examples, tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Tokens of each whole row, and how many of them are given where rows have prompts."""
    if examples.boundaries is None:
        return token_counts(examples.texts, tokenizer), None
    rows = whole_rows(examples, tokenizer, specials_of(tokenizer))
    return tuple(len(whole) for whole, _ in rows), tuple(given for _, given in rows)


def _own_parts(
    bodies: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials,
    columns: Columns,
    settings: TokensConfig,
    prompt: Prompt,
) -> tuple[list[list[int]], int, list[str]]:
    """Prompts, their width and references where columns count the model's own tokens.

    A short row stands at the right end of its columns, so its suffix is its last suffix_length tokens. A prompt that
    starts inside the row is given the tokenizer's BOS, as every text of such a model has one.
    """
    suffix = columns.suffix_length
    heads = [list(body[: max(len(body) - suffix, 0)]) for body in bodies]
    width = columns.suffix_start
    if prompt == "prefix":
        lead = list(specials.lead)
        inside = [head[len(lead) :] for head in heads]
        heads = [lead + ids[-columns.prompt_length :] if ids else [] for ids in inside]
        width = columns.prompt_length + len(lead)
    texts = [
        str(tokenizer.decode(list(body[-suffix:]), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for body in bodies
    ]
    return heads, width, [clean_up(text) for text in texts] if settings.cleanup else texts


def _source_parts(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    specials: Specials,
    columns: Columns,
    settings: TokensConfig,
    prompt: Prompt,
) -> tuple[list[list[int]], list[list[int]], int, list[str]]:
    """Rows without special tokens, prompts, their width and references where columns count the source's tokens."""
    rows = examples.token_rows
    if rows is None or examples.tokenizer is None:
        raise ValueError("own_columns=False needs examples with token rows")
    if rows.shape[1] < columns.length:
        raise UserError(f"columns.length: {columns.length}, the source's rows have {rows.shape[1]} tokens")
    vocabulary = load_vocabulary(examples.tokenizer)
    rows = rows[:, : columns.length]
    prompt_rows = rows[:, columns.prefix_start if prompt == "prefix" else 0 : columns.suffix_start]
    references = decode_rows(vocabulary, rows[:, columns.suffix_start :], settings.cleanup)
    width: int = prompt_rows.shape[1]
    if settings.retokenize == "auto" and same_vocabulary(examples.tokenizer, tokenizer):
        lead = list(specials.lead)
        return rows.tolist(), [lead + ids for ids in prompt_rows.tolist()], width + len(lead), references
    plain = encode(tokenizer, decode_rows(vocabulary, rows, settings.cleanup))
    prompts = encode(tokenizer, decode_rows(vocabulary, prompt_rows, settings.cleanup))
    return plain, [specials.surround(ids, width) for ids in prompts], width, references


def same_vocabulary(source: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every token of the source's vocabulary has the same id in the model's."""
    known = tokenizer.get_vocab()
    return all(known.get(token) == number for token, number in load_vocabulary(source).get_vocab().items())
