"""Rows of the field's benchmarks: ids, masks and prompts are OpenUnlearning's, and ends of text stand there once.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from icu_ray.config import QUESTION_ANSWER, RowForm
from icu_ray.data.examples import IGNORED_LABEL
from icu_ray.data.prompt_styles import (
    STYLES,
    Conventions,
    PromptRow,
    PromptStyle,
    completion_rows,
    prompt_batch,
    prompt_rows,
    style_of,
)
from icu_ray.errors import UserError

WORDS = [f"w{number}" for number in range(40)]
CHATML = (
    "{% for m in messages %}{{ '<start>' + m['role'] + ' ' + m['content'] + '<end> \n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start>assistant ' }}{% endif %}"
)
THINKS = CHATML.replace("'<start>assistant '", "'<start>assistant w39 w38 '")
UNENDED = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"


def words_tokenizer(template: str | None = CHATML, bos: bool = False, pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """A token a word, and one for a line break; <end> ends turns and texts."""
    names = ["<bos>", "<end>", "<pad>", "<start>", "user", "assistant", "system", "\n", *WORDS]
    inner = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    split = pre_tokenizers.Split(" ", "removed")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.Split("\n", "isolated")])
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<end>",
        pad_token=pad,
        unk_token="<pad>",
        additional_special_tokens=["<start>"],
    )
    made.chat_template = template
    return made


def said(made: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> list[str]:
    return list(made.convert_ids_to_tokens(list(ids)))


@pytest.fixture(scope="module")
def field(shared: Path) -> tuple[dict[str, Any], PreTrainedTokenizerBase]:
    folder = shared / "oracles" / "C"
    return json.loads((folder / "rows.json").read_text()), AutoTokenizer.from_pretrained(folder / "tokenizer")


def encoded(rows: dict[str, Any]) -> Iterator[tuple[tuple[str, str], dict[str, Any], list[int]]]:
    """Each pair of question and answer that the oracle has tokenised, its numbers, and its prompt's ids if known."""
    question, known = rows["question"], rows["prompt_ids"]
    yield (question, rows["answer"]), rows["answer_enc"], known
    if "paraphrased_answer" in rows:
        yield (question, rows["paraphrased_answer"]), rows["paraphrased_enc"], known
    for answer, numbers in zip(rows.get("perturbed_answer", ()), rows.get("perturbed_enc", ()), strict=True):
        yield (question, answer), numbers, known
    if "paraphrased_question" in rows:
        yield (rows["paraphrased_question"], rows["answer"]), rows["paraphrased_question_enc"], []


@pytest.mark.parametrize("conventions", ["default", "open_unlearning"])
def test_every_row_of_the_field_by_its_chat_template(
    field: tuple[dict[str, Any], PreTrainedTokenizerBase], conventions: Conventions
) -> None:
    told, made = field
    style = replace(STYLES["chat"], conventions=conventions)
    assert style.system == told["template_args"]["system_prompt"]
    known = [each for rows in told["sets"].values() for row in rows for each in encoded(row)]
    # 128 answers, 72 in other words, 24 to questions in other words, and the wrong ones.
    assert len(known) == 128 + 72 + 24 + sum(
        len(r.get("perturbed_answer", ())) for s in told["sets"].values() for r in s
    )
    found = prompt_rows([pair for pair, _, _ in known], made, style)
    for row, (pair, numbers, prompt) in zip(found, known, strict=True):
        assert list(row.ids) == numbers["ids"], pair
        assert row.masked == numbers["n_masked"], pair
        if prompt:
            assert list(row.prompt_ids) == prompt, pair
    texts = [row["prompt"] for rows in told["sets"].values() for row in rows]
    prompts = [list(row.prompt_ids) for row, (_, _, prompt) in zip(found, known, strict=True) if prompt]
    assert {tuple(made(text, add_special_tokens=False)["input_ids"]) for text in texts} == set(map(tuple, prompts))


@pytest.mark.parametrize("conventions", ["default", "open_unlearning"])
@pytest.mark.parametrize(("name", "style"), [("question_answer_tags", "question_answer"), ("inst_tags", "inst")])
def test_every_row_of_the_field_by_tags(
    field: tuple[dict[str, Any], PreTrainedTokenizerBase], name: str, style: str, conventions: Conventions
) -> None:
    told, made = field
    forget, retain = told["sets"]["forget"], told["sets"]["retain"]
    used, known = replace(STYLES[style], conventions=conventions), told["other_prompt_styles"][name]
    tags = known["template_args"]
    assert used.before == tags["user_start_tag"] and used.after == tags["asst_end_tag"]
    assert used.between == tags["user_end_tag"] + tags["asst_start_tag"]
    alone = prompt_rows([_pair(forget[row["row"]]) for row in known["zero_shot"]], made, used)
    shots = [_pair(row) for row in retain[:2]]
    after = prompt_rows([_pair(forget[row["row"]]) for row in known["two_shot_from_retain_0_1"]], made, used, shots)
    _same([*alone, *after], [*known["zero_shot"], *known["two_shot_from_retain_0_1"]])


def test_the_field_s_chat_with_earlier_turns(field: tuple[dict[str, Any], PreTrainedTokenizerBase]) -> None:
    told, made = field
    known = told["other_prompt_styles"]["chat_template_two_shot_from_retain_0_1"]
    pairs = [_pair(told["sets"]["forget"][row["row"]]) for row in known]
    _same(prompt_rows(pairs, made, STYLES["chat"], [_pair(row) for row in told["sets"]["retain"][:2]]), known)


def _pair(row: dict[str, Any]) -> tuple[str, str]:
    return row["question"], row["answer"]


def _same(found: list[PromptRow], known: list[dict[str, Any]]) -> None:
    assert found
    for row, numbers in zip(found, known, strict=True):
        assert list(row.ids) == numbers["ids"] and row.masked == numbers["n_masked"]
        if "prompt_ids" in numbers:
            assert list(row.prompt_ids) == numbers["prompt_ids"]


def test_chatml_ends_once_and_twice_in_open_unlearning() -> None:
    made = words_tokenizer()
    style = STYLES["chat_without_system"]
    (row,) = prompt_rows([("w1 w2", "w3")], made, style)
    head = ["<start>", "user", "w1", "w2", "<end>", "\n", "<start>", "assistant"]
    assert said(made, row.prompt_ids) == head
    assert said(made, row.ids) == [*head, "w3", "<end>"]
    assert row.masked == 8
    assert row.labels == (IGNORED_LABEL,) * 8 + row.ids[8:]
    (theirs,) = prompt_rows([("w1 w2", "w3")], made, replace(style, conventions="open_unlearning"))
    assert said(made, theirs.ids) == [*head, "w3", "<end>", "\n", "<end>"]
    assert theirs.masked == 8


def test_an_answer_without_a_token_leaves_its_end() -> None:
    made = words_tokenizer()
    (chat,) = prompt_rows([("w1", "")], made, STYLES["chat_without_system"])
    assert said(made, chat.ids[chat.masked :]) == ["<end>"]
    (tags,) = prompt_rows([("w1", "")], made, PromptStyle())
    assert said(made, tags.ids[tags.masked :]) == ["<end>"]


def test_a_template_that_ends_no_turn_is_given_an_end() -> None:
    made = words_tokenizer(UNENDED)
    (row,) = prompt_rows([("w1", "w2")], made, STYLES["chat_without_system"])
    assert said(made, row.ids) == ["w1", "w2", "<end>"] and row.masked == 1
    for style in (PromptStyle(chat=True, end=False), PromptStyle(end=False)):
        assert said(made, prompt_rows([("w1", "w2")], made, style)[0].ids) == ["w1", "w2"]


def test_a_prompt_that_is_not_the_beginning_of_the_row_masks_what_both_begin_with() -> None:
    made = words_tokenizer(THINKS)
    style = STYLES["chat_without_system"]
    (row,) = prompt_rows([("w1", "w2 w3 w4")], made, style)
    assert said(made, row.ids[row.masked :]) == ["w2", "w3", "w4", "<end>"]
    assert said(made, row.prompt_ids)[-2:] == ["w39", "w38"]
    (theirs,) = prompt_rows([("w1", "w2 w3 w4")], made, replace(style, conventions="open_unlearning"))
    assert theirs.masked == len(theirs.prompt_ids) == row.masked + 2


def test_the_system_text_and_what_the_answer_begins_with() -> None:
    made = words_tokenizer()
    (row,) = prompt_rows([("w1", "w2")], made, PromptStyle(chat=True, system="w7", begin="w8"))
    assert said(made, row.ids)[:4] == ["<start>", "system", "w7", "<end>"]
    assert said(made, row.prompt_ids)[-2:] == ["assistant", "w8"]
    assert "w8" not in said(made, row.ids) and row.masked == len(row.prompt_ids) - 1
    (tags,) = prompt_rows([("w1", "w2")], made, PromptStyle(system="w7 ", begin="w8"))
    assert said(made, tags.ids) == ["w7", "w1", "w2", "<end>"]
    assert said(made, tags.prompt_ids) == ["w7", "w1", "w8"]


def test_a_row_with_tags_is_cut_before_its_end() -> None:
    made = words_tokenizer(bos=True)
    (row,) = prompt_rows([("w1 w2", "w3 w4 w5")], made, PromptStyle(max_length=5))
    assert said(made, row.ids) == ["<bos>", "w1", "w2", "w3", "w4"]  # its end was never written there
    assert row.masked == 3
    (full,) = prompt_rows([("w1 w2 w3 w4 w5", "w6")], made, PromptStyle(max_length=5))
    assert said(made, full.prompt_ids)[-1] == "w5" and not full.ids[full.masked :]  # what is asked is never cut
    ou = PromptStyle(max_length=5, conventions="open_unlearning")
    (theirs,) = prompt_rows([("w1 w2", "w3 w4 w5")], made, ou)
    assert said(made, theirs.ids) == ["<bos>", "w1", "w2", "w3", "w4", "<end>"]
    (lost,) = prompt_rows([("w1 w2 w3 w4 w5", "w6")], made, ou)
    assert said(made, lost.prompt_ids) == ["<bos>", "w1", "w2", "w3", "w4"]
    # A chat is not cut.
    (chat,) = prompt_rows([("w1 w2", "w3 w4 w5")], made, PromptStyle(chat=True, max_length=5))
    assert said(made, chat.ids[chat.masked :]) == ["w3", "w4", "w5", "<end>"]


def test_texts_go_on_without_an_end() -> None:
    made = words_tokenizer(bos=True)
    first, cut, whole = completion_rows([("w1 w2", "w3 w4"), ("w1", "w2 w3 w4"), ("", "w5 w6")], made, max_length=4)
    assert said(made, first.ids) == ["<bos>", "w1", "w2", "w3"] and first.masked == 3
    assert said(made, first.prompt_ids) == ["<bos>", "w1", "w2"]
    assert said(made, cut.ids) == ["<bos>", "w1", "w2", "w3"] and cut.masked == 2
    assert said(made, whole.ids) == ["<bos>", "w5", "w6"] and whole.masked == 1
    pairs = [("w1 w2", "w3 w4 w5"), ("", "w1 w2 w3 w4 w5")]
    theirs, text = completion_rows(pairs, made, max_length=2, conventions="open_unlearning")
    assert said(made, theirs.ids) == ["<bos>", "w1", "w2", "w3", "w4"] and theirs.masked == 3
    assert said(made, text.ids) == ["<bos>", "w1", "w2"] and text.masked == 1
    (bare,) = completion_rows([("", "w5 w6")], words_tokenizer())
    assert said(made, bare.ids) == ["w5", "w6"] and bare.masked == 1


def test_a_batch_is_masked_by_length_also_where_pad_is_end_of_text() -> None:
    made = words_tokenizer(pad="<end>")
    rows = prompt_rows([("w1", "w2"), ("w1", "w2 w3 w4")], made, STYLES["chat_without_system"])
    assert made.pad_token_id == made.eos_token_id == 1
    ids, mask, labels = prompt_batch(rows, 1)
    assert mask.sum(axis=1).tolist() == [len(row.ids) for row in rows]
    for number, row in enumerate(rows):
        assert ids[number][mask[number]].tolist() == list(row.ids)
        assert labels[number][mask[number]].tolist() == list(row.labels)
        assert (labels[number][~mask[number]] == IGNORED_LABEL).all()
    _, theirs, same = prompt_batch(rows, 1, "open_unlearning")
    # Each row has two ends of a turn, and of those the model then sees none.
    assert (mask.sum(axis=1) - theirs.sum(axis=1)).tolist() == [2, 2]
    assert np.array_equal(same, labels)


@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from(WORDS), min_size=1), st.lists(st.sampled_from(WORDS), min_size=1)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(sorted(STYLES)),
)
def test_other_rows_do_not_matter_and_every_answer_is_scored_whole(
    drawn: list[tuple[list[str], list[str]]], name: str
) -> None:
    pairs, style = [(" ".join(q), " ".join(a)) for q, a in drawn], STYLES[name]
    # Tags that hold no words of this vocabulary would be read as padding.
    style = style if style.chat else PromptStyle()
    together = prompt_rows(pairs, MADE, style)
    assert together == [row for pair in pairs for row in prompt_rows([pair], MADE, style)]
    for (_, answer), row in zip(pairs, together, strict=True):
        assert said(MADE, row.ids[row.masked :]) == [*answer.split(), "<end>"]


MADE = words_tokenizer()


def test_a_config_s_rows_have_a_style() -> None:
    chat = RowForm(prompt="q", completion="a", template="chat", system="Be brief.", date="2024-02-29")
    assert style_of(chat) == PromptStyle(chat=True, system="Be brief.", date="2024-02-29")
    tags = RowForm(prompt="q", completion="a", template="question-answer", tags=QUESTION_ANSWER)
    assert style_of(tags) == STYLES["question_answer"]
    inst = replace(tags, tags=("[INST] ", " [/INST]"))
    assert style_of(inst, "open_unlearning") == replace(STYLES["inst"], conventions="open_unlearning")
    other = style_of(replace(tags, tags=("Q", "A")))
    assert (other.before, other.between, other.after) == ("Q", "A", "\n\n")
    assert style_of(RowForm(prompt="q", completion="a")) == PromptStyle()


def test_a_tokenizer_without_a_chat_template_is_refused() -> None:
    with pytest.raises(UserError, match="has no chat template"):
        prompt_rows([("w1", "w2")], words_tokenizer(None), STYLES["chat"])
