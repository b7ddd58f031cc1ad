"""The prompts of a forget file in other words, which an audit asks too.

    texts = read_paraphrases(data, sample=0)                # of data.paraphrases_column, one tuple a row
    by_id = paraphrases_of(targets, data.form, {"Who wrote it?": ("Whose work is it?",)})

A paraphrase is written as the row's prompt is, with the same tags around it; in a chat it is the user's last message.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData, RowForm
from icu_ray.data.examples import Examples
from icu_ray.data.forms import kind_of
from icu_ray.data.prompts import joined
from icu_ray.data.table_files import read_columns
from icu_ray.errors import UserError


def read_paraphrases(data: RecordsData, sample: int) -> list[tuple[str, ...]]:
    """Of each row of the forget file, in its order; () where its cell is empty. UserError for what is no text.

    ValueError without data.paraphrases_column.
    """
    if data.paraphrases_column is None:
        raise ValueError("no column of paraphrases is named")
    column, file = data.paraphrases_column, Path(data.forget.replace("{sample}", str(sample)))
    return [
        _texts(value, f"data.forget: {file}: {where}: column '{column}'")
        for where, (value,) in read_columns(file, (column,), "data.forget")
    ]


def written_paraphrases(
    targets: Examples, form: RowForm, texts: Sequence[tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """By id, of the targets that have some. texts: one tuple a target."""
    found = zip(targets.ids, texts, strict=True)
    return {name: tuple(_written(text, form) for text in each) for name, each in found if each}


def paraphrases_of(
    targets: Examples, form: RowForm, known: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """By id, of the targets whose prompts are among `known`; blanks make no other prompt."""
    if targets.boundaries is None:
        return {}
    by_prompt = {_plain(_written(prompt, form)): texts for prompt, texts in known.items()}
    prompts = (_plain(text[:end]) for text, end in zip(targets.texts, targets.boundaries, strict=True))
    return written_paraphrases(targets, form, [by_prompt.get(prompt, ()) for prompt in prompts])


def _written(prompt: str, form: RowForm) -> str:
    text, end = joined(prompt, "", form.tags)
    return text[:end]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """A cell's: one text, or a list of them, which a table has as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):  # else it is a text that begins with a bracket
            value = json.loads(value)
    if value is None or value == "":
        return ()
    each = value if isinstance(value, list) else [value]
    for text in each:
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where} holds {kind_of(text)}, expected text, or a list of texts")
    return tuple(each)
