"""What the cells of a row say: a text with, where it has one, the boundary between what is given and what follows.

    form = RowForm(prompt="question", completion="answer", template="question-answer", tags=QUESTION_ANSWER)
    written(form, ["Who?", "Ada."], "forget.jsonl: line 1")        # Written("Question: Who?\\nAnswer: Ada.", 22)

A chat stays a list of messages until a model's tokenizer is known (data/chats.py). Its text here, by which it is paired
and shown, is what was said, without roles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icu_ray.config import RowForm, Template
from icu_ray.data.prompts import joined
from icu_ray.data.table_files import column_names
from icu_ray.errors import UserError

_PAIRS: dict[tuple[str, str], Template] = {("question", "answer"): "question-answer", ("prompt", "completion"): "plain"}
"""Columns that are taken for prompt and completion where a file has no column of texts, and how they are joined."""
_MESSAGES = "messages"


@dataclass(frozen=True)
class Written:
    """boundary: how many characters of the text are given; None: a text without a prompt. chat: see Examples.chats."""

    text: str
    boundary: int | None = None
    chat: str | None = None
    prompt: str | None = None


def written(form: RowForm, values: Sequence[Any], where: str) -> Written:
    """The row that a file's cells are; UserError, which `where` begins, for what is none."""
    if form.messages is not None:
        return _of_chat(form, _messages(form.messages, values[0], where))
    texts = [_text(value, f"column '{column}'", where) for column, value in zip(form.columns, values, strict=True)]
    if form.prompt is None:
        return Written(texts[0])
    if form.template == "chat":
        turns = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
        return _of_chat(form, turns)
    return Written(*joined(texts[0], texts[1], form.tags), prompt=texts[0])


def written_pair(form: RowForm, values: Sequence[Any], column: str, value: Any, where: str) -> Written:
    """The pair that a column of the same row holds: another text, completion of its prompt, or end of its chat."""
    if form.messages is None and form.prompt is not None:
        return written(replace(form, completion=column), [values[0], value], where)
    text = _text(value, f"column '{column}'", where)
    if form.messages is None:
        return Written(text)
    before = _messages(form.messages, values[0], where)[:-1]
    return _of_chat(form, [*before, {"role": "assistant", "content": text}])


def written_alternates(column: str, value: Any, where: str) -> tuple[str, ...]:
    """The texts of a list of other answers; UserError for an empty list, and for what is none."""
    value = _parsed(column, value, where, "texts")
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: column '{column}' holds {kind_of(value)}, expected a list of one text or more")
    return tuple(_text(each, f"column '{column}': text {number}", where) for number, each in enumerate(value, start=1))


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {what} holds {kind_of(value)}, expected text")
    if not value.strip():
        raise UserError(f"{where}: {what} is empty; remove the row or fill it")
    try:
        value.isascii() or value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} holds half a character (a lone surrogate)") from None
    return value


def _parsed(column: str, value: Any, where: str, of: str) -> Any:
    """A cell that should hold a list, which a table such as a .csv has as JSON. of: what the list is of."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: column '{column}' holds no JSON list of {of} ({error})") from error


def kind_of(value: Any) -> str:
    """What a cell holds, in a word."""
    return "nothing" if value is None or value == "" else type(value).__name__


def _messages(column: str, value: Any, where: str) -> list[dict[str, str]]:
    """A chat that begins with the user, after system text perhaps, and ends with the assistant, by turns."""
    value = _parsed(column, value, where, "messages")
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: column '{column}' holds {kind_of(value)}, expected a list of messages")
    turns: list[dict[str, str]] = []
    follow = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
    for number, message in enumerate(value, start=1):
        here = f"{where}: column '{column}': message {number}"
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise UserError(f"{here}: expected an object with role and content")
        role = message["role"]
        before = turns[-1]["role"] if turns else None
        if role not in follow[before]:
            after = f" after '{before}'" if before else " at the beginning"
            raise UserError(f"{here}: found role '{role}'{after}, expected {' or '.join(follow[before])}")
        content = _text(message["content"], f"column '{column}': message {number} of '{role}'", where)
        turns.append({"role": role, "content": content})
    if turns[-1]["role"] != "assistant":
        without = "has no message of the assistant" if len(turns) < 3 else "does not end with the assistant"
        raise UserError(f"{where}: column '{column}': the chat {without}, so there is nothing to forget or keep in it")
    return turns


def _of_chat(form: RowForm, turns: list[dict[str, str]]) -> Written:
    said = [turn["content"] for turn in turns if turn["role"] != "system"]
    if form.system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": form.system}, *turns]
    chat = json.dumps({"date": form.date, "messages": turns}, ensure_ascii=False, sort_keys=True)
    prompt = "\n".join(said[:-1])
    return Written(*joined(prompt, said[-1]), chat=chat, prompt=prompt)


def system_of(chat: str) -> str:
    """The system text of a chat (`Examples.chats`); '' without one."""
    first = json.loads(chat)["messages"][0]
    return str(first["content"]) if first["role"] == "system" else ""


def detected(path: Path, has_chat_template: Callable[[], bool], key: str) -> dict[str, Any]:
    """Keys of data.source=records for a file that has no column `text` but others that say what they are; {} else.

    Prompts and completions are written by the model's chat template where it has one, else as suits the columns.
    """
    names = [name.strip() for name in column_names(path, key)]
    if "text" in names:
        return {}
    for (prompt, completion), usual in _PAIRS.items():
        if {prompt, completion} <= set(names):
            template = "chat" if has_chat_template() else usual
            return {"prompt_column": prompt, "completion_column": completion, "template": template}
    return {"messages_column": _MESSAGES} if _MESSAGES in names else {}


def form_said(form: RowForm) -> str:
    """How rows are read, in words: "'question' is given, 'answer' follows; written as 'Question: ...'"."""
    if form.messages is not None:
        return f"the last message of '{form.messages}' follows those before it, by the model's chat template"
    how = {
        "chat": "by the model's chat template",
        "plain": "one after the other",
        "question-answer": f"written {f'{form.tags[0]}...{form.tags[1]}...'!r}",
    }[form.template]
    return f"'{form.prompt}' is given and '{form.completion}' follows, {how}"
