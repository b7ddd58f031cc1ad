"""Which part of a prompt are the words of who asks: what an attack may rewrite, while the template stays.

    read = PromptReader(tokenizer)
    frame = read(row)                 # None where it cannot be told
    row.tokens[frame.start : frame.stop]

In a text that is all of the prompt but the special tokens in front. In a chat it is the last message of the user, which
is found by what the tokenizer's own chat template writes before and after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icu_ray.audit.rows import AuditRow
from icu_ray.data.chats import common, written_out
from icu_ray.data.prompts import special_ids
from icu_ray.data.specials import encode
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DAY = "2025-04-10"
_FIRST, _SECOND, _ANSWER = "First", "Second", "Answer"


@dataclass(frozen=True)
class Frame:
    """Tokens start .. stop - 1 of a row are the words of who asks; between: what stands between an answer, without
    the special tokens that end it, and the next question."""

    start: int
    stop: int
    between: tuple[int, ...]


@dataclass(frozen=True)
class _Template:
    """before, after: tokens around a message of the user, the latter up to the answer. between: as of Frame."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]


class PromptReader:
    """Finds the words in prompts of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._special = special_ids(tokenizer)
        self._template = _template_of(tokenizer, self._special)
        self._lines = tuple(encode(tokenizer, ["\n\n"])[0])

    def __call__(self, row: AuditRow) -> Frame | None:
        """The frame of a row's prompt; None where it has special tokens that the chat template does not explain."""
        prompt = row.prompt_ids
        lead = next((place for place, token in enumerate(prompt) if token not in self._special), len(prompt))
        chat = self._in_chat(prompt)
        if chat is not None or any(token in self._special for token in prompt[lead:]):
            return chat
        return Frame(lead, len(prompt), self._lines) if lead < len(prompt) else None

    def _in_chat(self, prompt: tuple[int, ...]) -> Frame | None:
        template = self._template
        if template is None or prompt[len(prompt) - len(template.after) :] != template.after:
            return None
        stop, width = len(prompt) - len(template.after), len(template.before)
        starts = (at for at in range(stop, width - 1, -1) if prompt[at - width : at] == template.before)
        start = next(starts, None)
        return None if start is None or start == stop else Frame(start, stop, template.between)


def _template_of(tokenizer: PreTrainedTokenizerBase, special: frozenset[int]) -> _Template | None:
    """What the chat template writes around a message, found by having it write some; None without one that shows it."""
    if tokenizer.chat_template is None:
        return None
    with contextlib.suppress(UserError, ValueError):
        pieces = [_around(tokenizer, words) for words in ((_FIRST, _SECOND, _ANSWER), (_SECOND, _FIRST, "Well"))]
        (head, between, after), (other_head, other_between, other_after) = pieces
        # What both have is the template's: at its borders tokens may be joined to the words.
        head = head[: common(head, other_head)]
        between = between[: common(between, other_between)]
        after = after[len(after) - common(after[::-1], other_after[::-1]) :]
        before = between[len(between) - common(head[::-1], between[::-1]) :]
        begin = max((place for place, token in enumerate(before) if token in special), default=0)
        if after and before:
            return _Template(tuple(before[begin:]), tuple(after), tuple(between))
    return None


def _around(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """Tokens of a chat up to its first question, and those between an answer and the next question, both with that
    question behind them; and those behind a question up to its answer, with the question before them."""
    first, second, answer = words
    turns = (("user", first), ("assistant", answer), ("user", second), ("assistant", answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    _, prompt = written_out(messages, _DAY, tokenizer, "a chat")
    again = prompt.rindex(second)  # from behind: a system prompt may have any of the words
    at = prompt.rindex(answer, 0, again) + len(answer)
    begin = prompt.rindex(first, 0, at)
    parts = prompt[: begin + len(first)], prompt[at : again + len(second)], prompt[again:]
    head, between, after = encode(tokenizer, parts)
    return head, between, after
