"""What a user's file says of itself where nobody said how its rows are written.

data = as_read({"source": "records", "forget": "forget01.json"}, {"source": "my-model"}, "icu-ray unlearn", print)
data["prompt_column"], data["template"]        # "question", "chat" where the model has a chat template
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData
from icu_ray.config.file import load_data
from icu_ray.data.forms import detected, form_said

_COLUMNS = ("prompt_column", "completion_column", "messages_column")
_WRITING = ("template", "tags", "system")
_OF_PROMPTS = ("alternates_column", "paraphrases_column")
"""Columns that need prompts, which are looked for first."""
_OF_TEMPLATE = {"system": "chat", "tags": "question-answer"}
"""What is said for one template only, so that it tells which is meant."""


def as_read(
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    where: str,
    say: Callable[[str], None],
    key: str = "data.forget",
) -> dict[str, Any]:
    """The section `data` with the columns that its forget file has, and a template; `say` is told what was found.

    Nothing is looked for where a column was named. model: its section; a stand-in has no source. where, key: for
    messages of the section, and of the file.
    """
    given = dict(data)
    if any(given.get(column) is not None for column in _COLUMNS) or given.get("text_column", "text") != "text":
        return given
    bare = load_data({name: value for name, value in given.items() if name not in (*_WRITING, *_OF_PROMPTS)}, where)
    found = detected(Path(bare.forget), lambda: _has_chat_template(model), key)
    if "prompt_column" in found:
        meant = [template for said, template in _OF_TEMPLATE.items() if given.get(said) is not None]
        found["template"] = meant[0] if meant else found["template"]
    given = found | given
    if found:
        say(f"{bare.forget}: {form_said(load_data(given, where).form)}")
    return given


def records_of(
    file: Path, columns: Mapping[str, Any], model: Mapping[str, Any], where: str, say: Callable[[str], None]
) -> RecordsData:
    """One file alone; columns: keys of its section, None for what was not said."""
    known = {key: value for key, value in columns.items() if value is not None}
    return load_data(as_read({"source": "records", "forget": str(file), **known}, model, where, say, "forget"), where)


def _has_chat_template(model: Mapping[str, Any]) -> bool:
    from icu_ray.models.loading import load_tokenizer

    source, trusted = model.get("source"), bool(model.get("trust_remote_code", False))
    if source is None:
        return False
    tokenizer = load_tokenizer(source, revision=model.get("revision"), trust_remote_code=trusted)
    return tokenizer.chat_template is not None
