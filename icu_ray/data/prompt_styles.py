"""Rows of question and answer as the field's benchmarks put them to a model.

    style = STYLES["question_answer"]                       # or style_of(config.data.form)
    rows = prompt_rows([("Who?", "Ada.")], tokenizer, style, shots=[("Where?", "Here.")])
    rows[0].ids, rows[0].masked, rows[0].prompt_ids
    ids, mask, labels = prompt_batch(rows, pad_id)

Measures of the literature are taken on these rows, so their tokens and masks are those of OpenUnlearning: a row and its
prompt are tokenised apart, and as many labels are masked as the prompt alone has tokens. Where a token lies across the
border, the first token of the answer is masked with it. Rows to train on (prompts.py) score that token.

In five things the default is another than OpenUnlearning's, which `conventions="open_unlearning"` follows:

- A chat ends behind the token with which its template ends the answer. There all that the template writes is kept, and
  an end of text is put wherever it is not the last id: ChatML's rows end twice.
- Of a chat whose prompt is not the beginning of the whole (a template that begins an answer otherwise when it is
  there), the tokens are masked that both begin with. There as many as the prompt has.
- A row with tags is cut to its most tokens in its answer, never in its prompt, at whose end stands what is asked (a
  prompt after ten examples may be longer than that), and gets no end of text. There the prompt is cut too, and the row
  gets an end of text, which is scored.
- Of a text that goes on from a prefix the most tokens count from the row's beginning. There from the text's, and the
  row is longer by its prefix, or by the one token that begins every text.
- `prompt_batch` masks by length. There a model does not see ids that equal the padding id, which may end turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import QUESTION_ANSWER, RowForm
from icu_ray.config.benchmarks import SYSTEM
from icu_ray.config.data import CHAT_DATE
from icu_ray.data.chats import common, require_chat_template, written_out
from icu_ray.data.examples import IGNORED_LABEL
from icu_ray.data.padding import left_pad
from icu_ray.data.prompts import end_of_turn, special_ids
from icu_ray.data.specials import encode, specials_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conventions = Literal["default", "open_unlearning"]
Pair = tuple[str, str]
"""A question and its answer."""
_INST = ("[INST] ", " [/INST]")


@dataclass(frozen=True)
class PromptStyle:
    """How a question and its answer become a row.

    chat: by the tokenizer's own chat template, told `system` and the day `date`; else system + before + question +
    between + answer, with what the tokenizer puts before every text. after: what ends an earlier example; the answer
    itself does not get it. max_length: tokens of a row with tags before its end of text; a chat is not cut. end:
    whether an end of text is put behind a row that has none. begin: what the answer is made to begin with when the
    model is asked to generate; it is in prompt_ids alone.
    """

    chat: bool = False
    system: str | None = None
    date: str = CHAT_DATE
    before: str = ""
    between: str = " "
    after: str = "\n\n"
    max_length: int = 512
    end: bool = True
    begin: str = ""
    conventions: Conventions = "default"


STYLES: Mapping[str, PromptStyle] = {
    "chat": PromptStyle(chat=True, system=SYSTEM),
    "chat_without_system": PromptStyle(chat=True),
    "inst": PromptStyle(before=_INST[0], between=_INST[1], after=" "),
    "question_answer": PromptStyle(before=QUESTION_ANSWER[0], between=QUESTION_ANSWER[1]),
}
"""chat: Llama 3, Qwen 2.5, Phi 3.5 and Zephyr. chat_without_system: Gemma. inst: Llama-2-7b-chat. question_answer: base
models, such as MUSE's Llama 2 and Phi 1.5."""


def style_of(form: RowForm, conventions: Conventions = "default") -> PromptStyle:
    """The style in which a config's rows of prompt and completion are written."""
    if form.template == "chat":
        return PromptStyle(chat=True, system=form.system, date=form.date, conventions=conventions)
    if form.template == "plain":
        return PromptStyle(conventions=conventions)
    known = next((style for style in STYLES.values() if (style.before, style.between) == form.tags), PromptStyle())
    return replace(known, before=form.tags[0], between=form.tags[1], conventions=conventions)


@dataclass(frozen=True)
class PromptRow:
    """ids: the whole row. masked: how many of its first labels are not scored. prompt_ids: what a model is given to
    generate from."""

    ids: tuple[int, ...]
    masked: int
    prompt_ids: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        """The ids, with IGNORED_LABEL in the place of the masked ones."""
        return (IGNORED_LABEL,) * self.masked + self.ids[self.masked :]


def prompt_rows(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, style: PromptStyle, shots: Sequence[Pair] = ()
) -> list[PromptRow]:
    """One row a pair, each after the same earlier examples.

    UserError where the tokenizer has no chat template, or one that refuses a row.
    """
    return _chat_rows(pairs, tokenizer, style, shots) if style.chat else _tag_rows(pairs, tokenizer, style, shots)


def _chat_rows(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, style: PromptStyle, shots: Sequence[Pair]
) -> list[PromptRow]:
    require_chat_template(tokenizer)
    first: list[dict[str, str]] = [] if style.system is None else [{"role": "system", "content": style.system}]
    for question, answer in shots:
        first += _turns(question, answer)
    texts = [
        written_out([*first, *_turns(question, answer)], style.date, tokenizer, question) for question, answer in pairs
    ]
    wholes = encode(tokenizer, [whole for whole, _ in texts])
    prompts = encode(tokenizer, [prompt for _, prompt in texts])
    asked = encode(tokenizer, [prompt + style.begin for _, prompt in texts]) if style.begin else prompts
    special, rows = special_ids(tokenizer), []
    for (_, answer), (whole, prompt), ids, head, begun in zip(pairs, texts, wholes, prompts, asked, strict=True):
        masked = len(head)
        if style.conventions == "default":
            if not whole.startswith(prompt):
                masked = common(ids, head)
            # Without an answer the turn ends at once.
            ids = ids[: end_of_turn(ids, masked if answer.strip() else masked - 1, special, tokenizer)]
            ended = ids[-1] in special
        else:
            ended = ids[-1] == tokenizer.eos_token_id
        rows.append(_row(ids, masked, begun, tokenizer.eos_token_id if style.end and not ended else None))
    return rows


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _tag_rows(
    pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, style: PromptStyle, shots: Sequence[Pair]
) -> list[PromptRow]:
    first = style.system or ""
    for question, answer in shots:
        first += style.before + question + style.between + answer + style.after
    heads = [first + style.before + question + style.between for question, _ in pairs]
    lead, most = list(specials_of(tokenizer).lead), style.max_length
    wholes = encode(tokenizer, [head + answer for head, (_, answer) in zip(heads, pairs, strict=True)])
    prompts = encode(tokenizer, heads)
    asked = encode(tokenizer, [head + style.begin for head in heads]) if style.begin else prompts
    rows = []
    for ids, head, begun in zip(wholes, prompts, asked, strict=True):
        whole, prompt, begun = [*lead, *ids], [*lead, *head], [*lead, *begun]
        if style.conventions == "default":
            ids = whole[: max(most, len(prompt))]
        else:
            ids, prompt, begun = whole[:most], prompt[:most], begun[:most]
        # A row that is cut has no end: an end of text there would be scored in the middle of an answer.
        cut = len(whole) > len(ids) and style.conventions == "default"
        ended = cut or (bool(ids) and ids[-1] == tokenizer.eos_token_id)
        end = tokenizer.eos_token_id if style.end and not ended else None
        rows.append(_row(ids, len(prompt), begun, end))
    return rows


def completion_rows(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 2048,
    space: bool = True,
    conventions: Conventions = "default",
) -> list[PromptRow]:
    """Texts that go on from a prefix, such as MUSE's, without an end of text; whole texts where the prefix is ''.

    space: whether one stands between prefix and text. max_length: tokens of a row (open_unlearning: of its text); the
    rest is cut. The first token of a row has nothing before it and is never scored.
    """
    specials, apart = specials_of(tokenizer), " " if space else ""
    lead = list(specials.lead)
    wholes = encode(tokenizer, [prefix + apart + text if prefix else text for prefix, text in pairs])
    heads = encode(tokenizer, [prefix for prefix, _ in pairs])
    rows = []
    for ids, head in zip(wholes, heads, strict=True):
        prompt = [*lead, *head]
        most = max_length if conventions == "default" else len(prompt) + max_length
        prompt = prompt[:most]
        rows.append(_row([*lead, *ids][:most], max(len(prompt), 1), prompt or specials.start(), None))
    return rows


def _row(ids: Sequence[int], masked: int, prompt: Sequence[int], end: int | None) -> PromptRow:
    whole = (*ids, *(() if end is None else (end,)))
    return PromptRow(whole, min(masked, len(whole)), tuple(prompt))


def prompt_batch(
    rows: Sequence[PromptRow], pad_id: int, conventions: Conventions = "default"
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Ids, attention mask and labels of rows, padded on the left: each (rows, longest row)."""
    width = max((len(row.ids) for row in rows), default=1)
    ids, mask = left_pad([list(row.ids) for row in rows], width, pad_id)
    labels = np.full_like(ids, IGNORED_LABEL)
    for number, row in enumerate(rows):
        labels[number, width - len(row.ids) + row.masked :] = row.ids[row.masked :]
    if conventions == "open_unlearning":
        mask = ids != pad_id
    return ids, mask, labels
