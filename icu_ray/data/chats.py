"""Chats as a model reads them: written out by its tokenizer's own template, in the sandbox of transformers.

    text, boundary = rendered(chat, tokenizer, "forget-1")

The prompt is all that the template writes before the answer, with what it puts there to have the model begin. A
template that prints today's date is told a fixed one: else the prompt would be another on every day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DIRECTIVES = ("-d", "-m", "-j", "-e", *"aAbBdejmyYHIMSpFDxXc")
"""What strftime is asked for."""


def require_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """UserError where the tokenizer has none."""
    if tokenizer.chat_template is None:
        raise UserError(
            f"data.template: chat: the tokenizer of {tokenizer.name_or_path} has no chat template; use template "
            "question-answer or plain with rows of prompt and completion, or a model that has one"
        )
    try:
        tokenizer.get_chat_template()
    except ValueError as error:  # several templates, and none of them the default
        raise UserError(f"data.template: chat: the tokenizer of {tokenizer.name_or_path}: {error}") from error


def common(first: Sequence[object], second: Sequence[object]) -> int:
    """How many items both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))


def rendered(chat: str, tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[str, int]:
    """The text of a chat (`Examples.chats`) and how many of its characters are given. name: the row's, for messages."""
    messages = json.loads(chat)["messages"]
    text = _writer(_day_of(chat), tokenizer, name)
    whole, head = text(messages, False), text(messages[:-1], True)
    boundary = common(whole, head)
    answer, asked = messages[-1]["content"].strip(), messages[-2]["content"].strip()
    if answer not in whole[boundary:] or asked not in whole[:boundary]:
        raise UserError(
            f"'{name}': the model's chat template does not show where the answer begins: what it writes before the "
            "answer differs when the answer is there"
        )
    return whole, boundary


def rendered_with_turn(chat: str, said: str, tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """The text of a chat that goes on: the user says something more, and the model is to begin its answer."""
    messages = json.loads(chat)["messages"]
    return _writer(_day_of(chat), tokenizer, name)([*messages, {"role": "user", "content": said}], True)


def written_out(
    messages: Sequence[dict[str, str]], day: str, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[str, str]:
    """The text of a chat, and that of its prompt: all messages but the last, and what has the model begin its answer.

    day: such as 2025-04-10, for templates that print today's. name: the row's, for messages.
    """
    text = _writer(date.fromisoformat(day), tokenizer, name)
    return text(list(messages), False), text(list(messages[:-1]), True)


def _day_of(chat: str) -> date:
    return date.fromisoformat(json.loads(chat)["date"])


def _writer(day: date, tokenizer: PreTrainedTokenizerBase, name: str) -> Callable[[list[dict[str, str]], bool], str]:
    """What writes messages out on a day, and if asked what it puts there to have the model begin."""
    template = _dated(str(tokenizer.get_chat_template()), day)

    def text(of: list[dict[str, str]], begin: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(
                    of,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=begin,
                    date_string=day.strftime("%d %b %Y"),
                )
            )
        except Exception as error:  # a template is a program, which may raise anything
            raise UserError(f"'{name}': the model's chat template refuses it: {error}") from error

    return text


def _dated(template: str, day: date) -> str:
    """The template with a strftime_now of its own, which knows one day.

    A function cannot be handed to the sandbox. What it does not know is refused: it would stand in the prompt as it is.
    The empty text at the end keeps a line break with which a template may begin.
    """
    if "strftime_now" not in template:
        return template
    parts = "".join(f" | replace({f'%{letter}'!r}, {day.strftime(f'%{letter}')!r})" for letter in _DIRECTIVES)
    refused = "{% if '%' in day %}{{ raise_exception('it asks for the day as ' ~ format) }}{% endif %}"
    told = f"{{% set day = format{parts} %}}{refused}{{{{ day }}}}"
    return f"{{% macro strftime_now(format) %}}{told}{{% endmacro %}}{{{{ '' }}}}{template}"
