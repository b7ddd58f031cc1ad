"""Greedy answers against plain code that reads all tokens anew for each next one, and ROUGE against its definition.

Needs: nothing.
"""

from __future__ import annotations

import functools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import AnswerRow, mean_of
from icu_ray.metrics.conventions import Conventions
from icu_ray.metrics.rouge import cut_answer, greedy_answers, rouge_scores
from icu_ray.metrics.sure_tokens import surely_said
from tests.support.tiny_models import FAMILIES, PAD, save_byte_tokenizer, tiny_model

model_of = functools.cache(tiny_model)
ENDS = {PAD, 5, 6, 7}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Whose first ids are one character each."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_byte_tokenizer(folder, 300)
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def plainly(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        with torch.inference_mode():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ENDS:
            break
        ids.append(token)
    return ids[len(prompt) :]


prompts_of = st.lists(st.lists(st.integers(2, 60), min_size=1, max_size=12), min_size=1, max_size=6)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(prompts=prompts_of, data=st.data())
def test_as_one_row_at_a_time_without_a_cache(
    family: str, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], data: st.DataObject
) -> None:
    model, counts = model_of(family), [data.draw(st.sampled_from([1, 5, 12])) for _ in prompts]
    said = [plainly(model, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
    texts = [tokenizer.decode(tokens) for tokens in said]
    # Stop words are taken from what is said, so that many rows meet one, and may overlap.
    spoken = st.sampled_from([text for text in texts if text] or ["!"])
    words = []
    for _ in range(data.draw(st.integers(0, 3))):
        text = data.draw(spoken)
        begin = data.draw(st.integers(0, len(text) - 1))
        words.append(text[begin : begin + data.draw(st.integers(1, 4))])
    known = [tokens[: data.draw(st.integers(0, len(tokens)))] for tokens in said]
    how = {"max_new_tokens": counts, "ends": ENDS, "pad_id": PAD, "stop_words": words}
    expected = [cut_answer(text, words) for text in texts]
    at_once = data.draw(st.integers(1, 6))
    assert greedy_answers(model, tokenizer, prompts, at_once=at_once, **how) == expected
    assert greedy_answers(model, tokenizer, prompts, at_once=at_once, openings=known, **how) == expected


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_a_token_that_is_masked_is_not_seen_in_prompts(family: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """As transformers generates with the mask of a collator that takes every id of the pad for a pad."""
    model, masked, prompts = model_of(family), 9, [[9, 8, 20, 9, 33], [30, 9, 9, 31], [12] * 5]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        mask = (ids != masked).long()
        with torch.inference_mode():
            whole = model.generate(
                ids, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=PAD, eos_token_id=list(ENDS)
            )[0, len(prompt) :].tolist()
        ended = next((place for place, token in enumerate(whole) if token in ENDS), len(whole))
        expected.append(tokenizer.decode(whole[:ended]).strip())
    how = {"max_new_tokens": 8, "ends": ENDS, "pad_id": PAD}
    assert greedy_answers(model, tokenizer, prompts, masked=masked, **how) == expected  # type: ignore[arg-type]
    assert greedy_answers(model, tokenizer, prompts, **how) != expected  # type: ignore[arg-type]


def test_what_a_forward_found_copied_begins_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    model, prompts = model_of("llama"), [[9, 8, 20], [30, 31], [12] * 9]
    said = [plainly(model, prompt, 12) for prompt in prompts]
    truths = [said[0], [*said[1][:2], 3, 4, 11], [*said[2], PAD]]
    rows = [AnswerRow.after(prompt + truth, len(prompt)) for prompt, truth in zip(prompts, truths, strict=True)]
    known = [each.copied for each in answer_scores(model, rows)]
    assert list(known[0]) == said[0] and list(known[1][:2]) == said[1][:2]
    how = {"max_new_tokens": 12, "ends": ENDS, "pad_id": PAD}
    asked: list[int] = []
    hook = model.register_forward_pre_hook(lambda m, given, named: asked.append(1), with_kwargs=True)
    try:
        whole = greedy_answers(model, tokenizer, prompts, **how)
        without = len(asked)
        assert greedy_answers(model, tokenizer, prompts, openings=known, **how) == whole
        assert len(asked) - without <= without
    finally:
        hook.remove()


def test_a_row_leaves_when_it_has_said_a_stop_word(tokenizer: PreTrainedTokenizerFast) -> None:
    model = model_of("llama")
    said = max((plainly(model, [start], 30) for start in range(8, 60)), key=len)
    assert len(said) > 20
    prompt = next([start] for start in range(8, 60) if plainly(model, [start], 30) == said)
    word, steps = str(tokenizer.decode(said[1:2])), []
    hook = model.register_forward_pre_hook(lambda m, given, named: steps.append(1), with_kwargs=True)
    try:
        how = {"max_new_tokens": 30, "ends": ENDS, "pad_id": PAD}
        (text,) = greedy_answers(model, tokenizer, [prompt], stop_words=[word], **how)
    finally:
        hook.remove()
    assert text == cut_answer(str(tokenizer.decode(said)), [word]) and len(steps) < 8


def test_no_answer_is_no_empty_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_model("gpt_neo").train()  # of 32 positions
    how = {"max_new_tokens": 20, "ends": ENDS, "pad_id": PAD}
    found = greedy_answers(model, tokenizer, [[3] * 28, [3] * 32, [3] * 40], **how)
    assert model.training and found[0] == tokenizer.decode(plainly(model.eval(), [3] * 28, 4)).strip()
    assert found[1:] == [None, None]
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    broken = greedy_answers(model, tokenizer, [[3], [4, 5]], **how)
    assert broken == [None, None]
    mean = mean_of(rouge_scores([None, "a", ""], ["a", "a", "a"]).rougeL_recall)
    assert (mean.value, mean.counted, mean.rows) == (0.5, 2, 3)


def longest_common(a: list[str], b: list[str]) -> int:
    @functools.cache
    def longest(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return 1 + longest(i + 1, j + 1) if a[i] == b[j] else max(longest(i + 1, j), longest(i, j + 1))

    return longest(0, 0)


words_of = st.lists(st.sampled_from(["ant", "bee", "cow", "dog", "42"]), max_size=8)


@settings(deadline=None)
@given(said=words_of, true=words_of)
def test_rouge_by_its_definition(said: list[str], true: list[str]) -> None:
    found = rouge_scores([", ".join(said)], [" ".join(true).upper()])
    common = longest_common(said, true)
    recall = common / len(true) if said and true else 0.0
    precision = common / len(said) if said and true else 0.0
    assert found.rougeL_recall[0] == pytest.approx(recall)
    f1 = 2 * recall * precision / (recall + precision) if common else 0.0
    assert found.rougeL_f1[0] == pytest.approx(f1)
    shared = sum(min(said.count(word), true.count(word)) for word in set(true))
    assert found.rouge1_recall[0] == pytest.approx(shared / len(true) if said and true else 0.0)


def test_stems_are_compared_unless_asked_otherwise() -> None:
    plain = Conventions(stemmer=False)
    assert rouge_scores(["writing books"], ["written book"]).rougeL_recall[0] == pytest.approx(0.5)
    assert rouge_scores(["writing books"], ["written book"], plain).rougeL_recall[0] == 0
    assert rouge_scores(["日本"], ["日本"]).rougeL_recall[0] == 0 and not math.isnan(
        rouge_scores([""], [""]).rougeL_f1[0]
    )


def test_likely_tokens_of_prompts_with_masked_ones_change_no_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Positions of such prompts are counted otherwise step after step than in one forward; the model is sure enough
    for openings."""
    model, masked, draw = tiny_model("llama"), 9, random.Random(0)
    with torch.no_grad():
        model.lm_head.weight.mul_(6)
    prompts = [[draw.choice([masked, *range(10, 60)]) for _ in range(10)] for _ in range(40)]
    prompts = [[10, masked, *prompt] if place % 2 else prompt for place, prompt in enumerate(prompts)]
    how = {"max_new_tokens": 8, "ends": ENDS, "pad_id": PAD, "masked": masked}
    expected = greedy_answers(model, tokenizer, prompts, **how)
    likely = [_argmax_forward(model, prompt, masked, 8) for prompt in prompts]
    openings = surely_said(model, prompts, likely, masked)
    assert any(openings)
    assert greedy_answers(model, tokenizer, prompts, openings=openings, **how) == expected


def _argmax_forward(model: PreTrainedModel, prompt: list[int], masked: int, count: int) -> list[int]:
    """What whole forwards, in which positions are counted as they stand, find most probable token after token."""
    ids = list(prompt)
    for _ in range(count):
        read = torch.tensor([ids])
        ids.append(int(model(input_ids=read, attention_mask=(read != masked).long()).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(prompts=prompts_of, data=st.data())
def test_likely_tokens_change_no_answer(
    family: str, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], data: st.DataObject
) -> None:
    """Right, wrong from some place on, too long or none at all."""
    model = model_of(family)
    masked = data.draw(st.sampled_from([None, 9]))
    likely = []
    for prompt in prompts:
        tokens = plainly(model, prompt, 12)
        right = tokens[: data.draw(st.integers(0, len(tokens)))]
        likely.append([*right, *data.draw(st.lists(st.integers(0, 60), max_size=4))])
    openings = surely_said(model, prompts, likely, masked)
    assert all(tuple(tokens[: len(known)]) == known for tokens, known in zip(likely, openings, strict=True))
    how = {"max_new_tokens": 12, "ends": ENDS, "pad_id": PAD, "masked": masked}
    expected = greedy_answers(model, tokenizer, prompts, **how)
    assert greedy_answers(model, tokenizer, prompts, openings=openings, **how) == expected


def test_a_recited_answer_is_not_generated(tokenizer: PreTrainedTokenizerFast) -> None:
    """Its likely tokens end with an end of text, which one forward proves where the model is sure."""
    model, read = tiny_model("llama"), []
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)  # sure of whatever it says
    prompts = [[start, start + 1] for start in range(8, 60)]
    said = [plainly(model, prompt, 12) for prompt in prompts]
    likely = [[*tokens, next(iter(ENDS))] if len(tokens) < 12 else tokens for tokens in said]
    openings = surely_said(model, prompts, likely)
    whole = [place for place, known in enumerate(openings) if len(known) >= len(said[place])]
    assert len(whole) > len(prompts) // 2
    hook = model.register_forward_pre_hook(lambda m, given, named: read.append(1), with_kwargs=True)
    try:
        full = [place for place in whole if len(said[place]) == 12]
        how = {"max_new_tokens": 12, "ends": ENDS, "pad_id": PAD}
        texts = greedy_answers(
            model, tokenizer, [prompts[p] for p in full], openings=[openings[p] for p in full], **how
        )
    finally:
        hook.remove()
    assert full and not read
    assert texts == [cut_answer(str(tokenizer.decode(said[p])), []) for p in full]
