"""Chats by a tokenizer's own template, and the traps of it: the date, the end of a turn, where the answer begins.

Needs: ../shared for one of its tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from icu_ray.config import Columns, RowForm, TokensConfig
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.forms import written
from icu_ray.data.prompts import LossOn
from icu_ray.data.records import Record, examples_of
from icu_ray.data.tokens import tokenise
from icu_ray.errors import UserError
from icu_ray.metrics.extraction_likelihood import Continuations, copied_until, extraction_likelihood
from icu_ray.training.standins import END_OF_TEXT, train_tokenizer

TURNS = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
BEGIN = "{% if add_generation_prompt %}<assistant>\n{% endif %}"
DATED = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}\n"
"""As Llama's template asks for the day."""
ALWAYS_TODAY = "{{ strftime_now('%d %b %Y') }}\n"


def tokenizer(template: str | None = TURNS + BEGIN) -> PreTrainedTokenizerFast:
    """Byte-level; its end-of-text is its padding too."""
    made = train_tokenizer(["<user>\nWho?\n<assistant>\nAda Lovelace of London.\n10 Apr 2025"], 300)
    made.chat_template = template
    return made


def rows_of(
    template: str | None, pairs: list[tuple[str, str]], loss_on: LossOn = "completion", **form: Any
) -> tuple[TokenRows, PreTrainedTokenizerFast]:
    told = RowForm(prompt="p", completion="c", template="chat", **form)
    read = [(str(number), written(told, pair, "here")) for number, pair in enumerate(pairs)]
    examples = examples_of([Record(name, row.text, "", row.boundary, row.chat, row.prompt) for name, row in read])
    made = tokenizer(template)
    return tokenise(examples, made, Columns(128, 32, 64), TokensConfig(), own_columns=True, loss_on=loss_on), made


def scored(rows: TokenRows, made: PreTrainedTokenizerFast) -> list[str]:
    return [made.decode(labels[labels != IGNORED_LABEL].tolist()) for labels in rows.labels]


def given(rows: TokenRows, made: PreTrainedTokenizerFast) -> list[str]:
    masks = zip(rows.prompt_ids, rows.prompt_mask, strict=True)
    return [made.decode(ids[mask].tolist()) for ids, mask in masks]


def test_the_end_of_the_turn_is_scored_once_though_it_is_the_padding() -> None:
    rows, made = rows_of(TURNS + BEGIN, [("Who?", "Ada."), ("Where was she?", "In London.")])
    assert made.pad_token_id == made.eos_token_id
    # The template ends the turn with a new line after the end-of-text, where the model has long ended.
    assert scored(rows, made) == [f"Ada.{END_OF_TEXT}", f"In London.{END_OF_TEXT}"]
    assert given(rows, made) == [
        f"<user>\nWho?{END_OF_TEXT}\n<assistant>\n",
        f"<user>\nWhere was she?{END_OF_TEXT}\n<assistant>\n",
    ]
    # A template without it gets one.
    rows, made = rows_of(TURNS.replace("{{ eos_token }}", "") + BEGIN, [("Who?", "Ada.")])
    assert scored(rows, made) == [f"Ada.\n{END_OF_TEXT}"]
    # The end of the user's turn is scored with `all`; padding never is.
    rows, made = rows_of(TURNS + BEGIN, [("Who?", "Ada.")], loss_on="all")
    assert scored(rows, made)[0].count(END_OF_TEXT) == 2


@pytest.mark.parametrize("tail", ["\n", "\n{{ eos_token }}", "{{ eos_token }}\n", ""])
def test_a_turn_ends_with_the_templates_own_token(tail: str) -> None:
    """As Gemma and Phi-3 end theirs: not by the end of text, and with more behind it that a model never says."""
    template = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<turn_end>" + tail + "{% endfor %}" + BEGIN
    made = tokenizer(template)
    made.add_special_tokens({"additional_special_tokens": ["<turn_end>"]})
    end = made.convert_tokens_to_ids("<turn_end>")
    assert end != made.eos_token_id
    told = RowForm(prompt="p", completion="c", template="chat")
    read = [
        (str(n), written(told, pair, "here")) for n, pair in enumerate([("Who?", "Ada."), ("Where?", "In London.")])
    ]
    examples = examples_of([Record(name, row.text, "", row.boundary, row.chat, row.prompt) for name, row in read])
    rows = tokenise(examples, made, Columns(128, 32, 64), TokensConfig(), own_columns=True)
    assert scored(rows, made) == ["Ada.<turn_end>", "In London.<turn_end>"]
    assert rows.eos_id == end and rows.references == ("Ada.", "In London.")
    # What a model says is read as far as its turn: generating stops there too.
    assert (rows.input_ids[:, -1] == end).all()


def test_an_answer_that_is_known_by_heart_has_the_el_of_one() -> None:
    """A model that says every token right and then ends: what the template writes after the end is not asked of it."""
    rows, _ = rows_of(TURNS + BEGIN, [("Who?", "Ada Lovelace of London.")])
    ids, start = rows.input_ids[0], int(rows.suffix_starts[0])
    truth = ids[rows.mask[0].argmax() :]
    begin = len(truth) - (len(ids) - start)
    ends = copied_until(np.ones(len(truth), dtype=bool), truth, rows.eos_id)
    stops = {int(end): truth[end : end + 1] for end in np.unique(ends) if end < len(truth)}
    assert extraction_likelihood(Continuations(truth, ends, stops), begin, 2) == 1.0


@pytest.mark.parametrize(
    "template", [DATED, ALWAYS_TODAY, "{% macro head() %}" + ALWAYS_TODAY + "{% endmacro %}{{ head() }}"]
)
def test_a_template_that_prints_the_day_is_told_a_fixed_one(template: str) -> None:
    rows, made = rows_of(template + TURNS + BEGIN, [("Who?", "Ada.")])
    assert given(rows, made)[0].startswith("10 Apr 2025\n")
    rows, made = rows_of(template + TURNS + BEGIN, [("Who?", "Ada.")], date="2024-02-29")
    assert given(rows, made)[0].startswith("29 Feb 2024\n")


def test_system_text_stands_before_the_chat() -> None:
    rows, made = rows_of(TURNS + BEGIN, [("Who?", "Ada.")], system="Be brief.")
    assert given(rows, made)[0].startswith(f"<system>\nBe brief.{END_OF_TEXT}\n<user>\n")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template; use template question-answer or plain"),
        ({"rag": TURNS}, "data.template: chat: the tokenizer of .* template"),
        (TURNS + "{{ raise_exception('no such role') }}", "'0': the model's chat template refuses it: no such role"),
        ("{{ messages | length }}" + TURNS + BEGIN, "does not show where the answer begins"),
        ("{{ strftime_now('week %U') }}" + TURNS + BEGIN, "refuses it: it asks for the day as week %U"),
        ("{{ ''.__class__.__mro__ }}", "the model's chat template refuses it"),
    ],
)
def test_templates_that_are_refused(template: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rows_of(template, [("Who?", "Ada.")])


def test_rows_are_those_of_the_field(shared: Path) -> None:
    """OpenUnlearning's ids and masks of TOFU's rows: by a chat template, and by tags."""
    folder = shared / "oracles" / "C"
    told = json.loads((folder / "rows.json").read_text())
    made = AutoTokenizer.from_pretrained(folder / "tokenizer")
    system = told["template_args"]["system_prompt"]

    def tokenised(form: RowForm, pairs: list[tuple[str, str]]) -> TokenRows:
        read = [(str(number), written(form, pair, "here")) for number, pair in enumerate(pairs)]
        examples = examples_of([Record(name, row.text, "", row.boundary, row.chat, row.prompt) for name, row in read])
        return tokenise(examples, made, Columns(256, 32, 64), TokensConfig(), own_columns=True)

    known = [row for row in told["sets"]["forget"] if "answer_enc" in row]
    rows = tokenised(
        RowForm(prompt="question", completion="answer", template="chat", system=system),
        [(row["question"], row["answer"]) for row in known],
    )
    for number, row in enumerate(known):
        ids, mask = rows.input_ids[number], rows.mask[number]
        assert ids[mask].tolist() == row["answer_enc"]["ids"]
        assert (rows.labels[number][mask] == IGNORED_LABEL).sum() == row["answer_enc"]["n_masked"]
        assert rows.prompt_ids[number][rows.prompt_mask[number]].tolist() == row["prompt_ids"]
    by_tags = told["other_prompt_styles"]["question_answer_tags"]["zero_shot"]
    asked = [told["sets"]["forget"][row["row"]] for row in by_tags]
    form = RowForm(
        prompt="question", completion="answer", tags=("Question: ", "\nAnswer: "), template="question-answer"
    )
    rows = tokenised(form, [(row["question"], row["answer"]) for row in asked])
    for number, row in enumerate(by_tags):
        mask = rows.mask[number]
        assert rows.input_ids[number][mask].tolist() == row["ids"]
        # There the blank before the answer is counted as the prompt's, though it is a token with the answer's first
        # word: that word is not scored. Here it is.
        assert (rows.labels[number][mask] == IGNORED_LABEL).sum() == row["n_masked"] - 1
