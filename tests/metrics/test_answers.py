"""Measures of answers against plain code that reads one row at a time, and what must hold of them whatever the rows.

Needs: nothing.
"""

from __future__ import annotations

import functools
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from icu_ray.data.examples import IGNORED_LABEL
from icu_ray.metrics import membership
from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import (
    AnswerRow,
    AnswerScores,
    avg_losses,
    exact_memorization,
    extraction_strength,
    mean_of,
    normalised_probabilities,
    prob_mean_scores,
    probabilities,
    truth_ratio_scores,
    truth_ratios,
)
from icu_ray.metrics.conventions import Conventions
from icu_ray.metrics.forget_quality import UTILITY_PARTS, forget_quality, model_utility, p_value_floor
from icu_ray.metrics.row_trees import LEAST_SAVED, row_trees, tree_limit
from icu_ray.metrics.sure_tokens import surely_said
from tests.support.tiny_models import FAMILIES, MORE_FAMILIES, PAD, VOCABULARY, tiny_model, tiny_model_of

EOS = 7
model_of = functools.cache(tiny_model_of)
OU = Conventions.open_unlearning()


@dataclass
class Plain:
    """One row's scored tokens from one forward of that row alone."""

    log_p: list[float]
    right: list[bool]
    normalised: list[float]
    labels: list[int]


def plain(model: PreTrainedModel, row: AnswerRow) -> Plain:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids])).logits[0].double()
    found = Plain([], [], [], [])
    for place in range(1, len(row.ids)):
        label = row.labels[place]
        if label != IGNORED_LABEL:
            p = torch.softmax(logits[place - 1], -1)
            log_p = torch.log(p)
            mean = float((p * log_p).sum())
            variance = max(float((p * log_p**2).sum()) - mean**2, 1e-6)
            found.log_p.append(float(log_p[label]))
            found.right.append(int(logits[place - 1].argmax()) == label)
            found.normalised.append((float(log_p[label]) - mean) / math.sqrt(variance))
            found.labels.append(label)
    return found


def some_rows(model: PreTrainedModel, seed: int, count: int = 6) -> list[AnswerRow]:
    """Of 2 to 30 tokens; parts are what the model itself says next, others are not scored; one has no label."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        length = int(draw.integers(2, 31))
        ids = draw.integers(2, VOCABULARY, size=length).tolist()
        with torch.no_grad():
            for place in range(length // 2, length):
                if draw.random() < 0.6:
                    ids[place] = int(model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].argmax())
        if draw.random() < 0.5:
            ids[-1] = EOS
        labels = [IGNORED_LABEL if draw.random() < 0.3 else token for token in ids]
        labels[0] = IGNORED_LABEL
        if number == 3:
            labels = [IGNORED_LABEL] * length
        rows.append(AnswerRow(tuple(ids), tuple(labels)))
    return rows


def close(found: AnswerScores, other: AnswerScores) -> None:
    assert found.tokens.tolist() == other.tokens.tolist()
    assert found.matches.tolist() == other.matches.tolist()
    for name in ("log_probs", "means", "variances"):
        np.testing.assert_allclose(getattr(found, name), getattr(other, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_a_row_has_the_same_scores_in_any_batch(family: str) -> None:
    model = model_of(family)
    for seed in range(3):
        rows = some_rows(model, seed)
        together = answer_scores(model, rows)
        for row, found in zip(rows, together, strict=True):
            (alone,) = answer_scores(model, [row], tokens_at_once=1)
            close(found, alone)
            expected = plain(model, row)
            assert found.log_probs.tolist() == pytest.approx(expected.log_p, rel=1e-4, abs=1e-5)
            assert found.matches.tolist() == expected.right


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), more=st.integers(10, 20), tokens=st.sampled_from([1, 40, 80, None]))
def test_ten_more_pads_change_nothing(seed: int, more: int, tokens: int | None) -> None:
    model = model_of("llama")
    rows = some_rows(model, seed, 4)
    longest = AnswerRow.after([5] * (max(len(row.ids) for row in rows) + more), 3)
    padded = answer_scores(model, [*rows, longest], tokens_at_once=None if tokens is None else 500)
    for found, expected in zip(padded, answer_scores(model, rows, tokens_at_once=tokens), strict=False):
        close(found, expected)


def test_equal_rows_are_read_once() -> None:
    model = model_of("llama")
    rows = some_rows(model, 1)
    read: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda module, given, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    try:
        found = answer_scores(model, [*rows, *rows[::-1], rows[0]])
    finally:
        hook.remove()
    assert sum(read) == len(rows)
    expected = answer_scores(model, rows)
    for scores, wanted in zip(found, [*expected, *expected[::-1], expected[0]], strict=True):
        close(scores, wanted)
    assert answer_scores(model, []) == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([0.2, 0.4, 1.0]))
def test_the_definitions_by_plain_code(seed: int, k: float) -> None:
    model = model_of("llama")
    rows = some_rows(model, seed)
    scores = answer_scores(model, rows)
    texts = ["née " * (1 + number) for number in range(len(rows))]
    losses = avg_losses(scores)
    memorised, extracted = exact_memorization(scores, EOS), extraction_strength(scores, EOS)
    least, normal = membership.min_k_scores(scores, EOS, k), membership.min_k_plus_plus_scores(scores, EOS, k)
    squeezed = membership.zlib_scores(losses, texts)
    for place, row in enumerate(rows):
        known = plain(model, row)
        n = len(known.labels)
        if n == 0:
            values = (losses, memorised, extracted, least, normal, squeezed)
            assert all(math.isnan(each[place]) for each in values)
            continue
        loss = -sum(known.log_p) / n
        assert losses[place] == pytest.approx(loss, rel=1e-4)
        assert squeezed[place] == pytest.approx(loss / len(zlib.compress(texts[place].encode())), rel=1e-4)
        m = n - 1 if known.labels[-1] == EOS else n
        if m == 0:
            assert math.isnan(memorised[place]) and math.isnan(extracted[place])
        else:
            assert memorised[place] == pytest.approx(sum(known.right[:m]) / m)
            start = next(start for start in range(m + 1) if all(known.right[start:m]))
            assert extracted[place] == pytest.approx(1 - start / m)
        if n == 1:
            assert math.isnan(least[place]) and math.isnan(normal[place])
        else:
            count = max(1, math.floor(k * (n - 1)))
            assert least[place] == pytest.approx(-sum(sorted(known.log_p[:-1])[:count]) / count, rel=1e-4, abs=1e-5)
            assert normal[place] == pytest.approx(
                -sum(sorted(known.normalised[:-1])[:count]) / count, rel=1e-3, abs=1e-4
            )


def scores_of(right: list[bool], tokens: list[int]) -> AnswerScores:
    n = len(right)
    values = -np.arange(1, n + 1, dtype=np.float64)
    return AnswerScores(np.array(tokens, dtype=np.int64), values, np.array(right, dtype=np.bool_), values, values**2)


def test_each_choice_has_a_name() -> None:
    ends, goes_on = scores_of([True, False, False], [4, 5, EOS]), scores_of([True, True, False], [4, 5, 6])
    both, nothing = [ends, goes_on], [scores_of([], [])]
    assert exact_memorization(both, EOS).tolist() == pytest.approx([1 / 2, 2 / 3])
    assert exact_memorization(both, EOS, Conventions(tail="last_label")).tolist() == pytest.approx([1 / 2, 1])
    assert extraction_strength(both, EOS).tolist() == [0, 0]
    assert extraction_strength(both, EOS, Conventions(es_floor="ou")).tolist() == pytest.approx([1 / 2, 1 / 3])
    assert extraction_strength(both, EOS, OU).tolist() == [1 / 2, 1]
    assert exact_memorization(both, None).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert membership.min_k_scores(both, EOS, 1.0).tolist() == [1.5, 1.5]
    assert membership.min_k_scores(both, EOS, 1.0, Conventions(membership_tail="eos")).tolist() == [1.5, 2.0]
    assert math.isnan(extraction_strength(nothing, EOS)[0]) and math.isnan(membership.min_k_scores(nothing, EOS)[0])
    zero = Conventions(empty="zero")
    assert [f(nothing, EOS, conventions=zero)[0] for f in (extraction_strength, membership.min_k_scores)] == [0, 0]
    right, wrong = [math.log(2)], [[math.log(4), math.log(64)]]
    assert truth_ratios(right, wrong)[0] == pytest.approx(1 / 8)
    assert truth_ratios(right, wrong, Conventions(wrong_mean="arithmetic"))[0] == pytest.approx(17 / 64)
    with pytest.raises(ValueError, match="pad"):
        answer_scores(model_of("llama"), some_rows(model_of("llama"), 0), conventions=OU)


losses_lists = st.lists(st.floats(0, 30), min_size=1, max_size=5)


@settings(deadline=None)
@given(right=st.lists(st.floats(0, 30), min_size=1, max_size=8), data=st.data())
def test_truth_ratios_and_normalised_probabilities(right: list[float], data: st.DataObject) -> None:
    wrong = [data.draw(losses_lists) for _ in right]
    ratios = truth_ratios(right, wrong)
    for place, (own, others) in enumerate(zip(right, wrong, strict=True)):
        p_right, p_wrong = math.exp(-own), math.exp(-sum(others) / len(others))
        ratio = p_wrong / (p_right + 1e-10)
        assert ratios[place] == pytest.approx(ratio, rel=1e-9)
        for kind, expected in (
            ("forget", min(ratio, 1 / (ratio + 1e-10))),
            ("retain", max(0.0, 1 - ratio)),
            ("prob_mean", p_right / (p_right + p_wrong + 1e-10)),
        ):
            assert truth_ratio_scores(right, wrong, kind)[place] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        share = p_right / (p_right + sum(math.exp(-each) for each in others) + 1e-10)
        assert normalised_probabilities(right, wrong)[place] == pytest.approx(share, rel=1e-9)
    shares = prob_mean_scores([math.exp(-each) for each in right], ratios)
    np.testing.assert_allclose(shares, truth_ratio_scores(right, wrong, "prob_mean"), rtol=1e-9)
    # What is missing stays missing, and is counted.
    missing = mean_of(truth_ratio_scores([*right, 1.0, math.nan], [*wrong, [], [1.0]], "forget"))
    assert (missing.counted, missing.rows) == (len(right), len(right) + 2)
    assert missing.value == pytest.approx(mean_of(truth_ratio_scores(right, wrong, "forget")).value)
    assert np.isnan(normalised_probabilities([1.0], [[]])).all()


def test_a_broken_model_is_measured_as_nothing() -> None:
    model = tiny_model("llama")
    rows = some_rows(model, 2)
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    model.train()
    scores = answer_scores(model, rows)
    assert model.training
    for values in (
        probabilities(avg_losses(scores)),
        exact_memorization(scores, EOS),
        extraction_strength(scores, EOS),
        membership.min_k_scores(scores, EOS),
        membership.min_k_plus_plus_scores(scores, EOS),
    ):
        assert mean_of(values) == mean_of([None] * len(rows)) and mean_of(values).counted == 0


def test_rows_that_cannot_be_are_refused() -> None:
    for ids, labels in (((), ()), ((1, 2), (IGNORED_LABEL,)), ((1, 2), (1, 2))):
        with pytest.raises(ValueError, match=r"labels for|first token"):
            AnswerRow(ids, labels)
    assert AnswerRow.after([1, 2, 3], 9).scored == ()


def test_gradient_norms_by_backward() -> None:
    model = tiny_model("llama", dropout=0.5)
    rows = some_rows(model, 5)
    frozen = next(model.parameters()).requires_grad_(False)
    for p in (1.0, 2.0):
        found = membership.gradient_norms(model, rows, EOS, p)
        assert not frozen.requires_grad and not model.training
        assert all(each.grad is None for each in model.parameters())
        for row, value in zip(rows, found, strict=True):
            counted = row.scored[:-1]
            if not counted:
                assert math.isnan(value)
                continue
            other = tiny_model("llama")
            log_p = torch.log_softmax(other(input_ids=torch.tensor([row.ids])).logits[0], -1)
            (-sum(log_p[place - 1, row.labels[place]] for place in counted) / len(counted)).backward()
            norms = [float((each.grad.abs() ** p).sum() ** (1 / p)) for each in other.parameters()]
            assert value == pytest.approx(sum(norms) / len(norms), rel=1e-4)
    active = membership.gradient_norms(model, rows, EOS, conventions=Conventions(gradient_mode="train"))
    assert not np.allclose(active, found, equal_nan=True) and not model.training


values = st.lists(st.one_of(st.none(), st.integers(0, 5).map(float)), max_size=12)


@settings(deadline=None)
@given(members=values, others=values)
def test_auc_and_what_is_made_of_it(members: list[float | None], others: list[float | None]) -> None:
    inside, outside = ([each for each in some if each is not None] for some in (members, others))
    found = membership.auc(members, others)
    assert (found.members, found.others) == (len(inside), len(outside))
    if not inside or not outside:
        assert found.value is None and membership.privleak(found.value, 0.5) is None
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in outside for b in inside)
    assert found.value == pytest.approx(wins / (len(inside) * len(outside)))
    if found.value < 1:
        assert membership.privleak(found.value, found.value) == 0
        assert membership.privleak(1.0, found.value) == pytest.approx(-100)
        assert membership.privleak(found.value) == pytest.approx((0.5 - found.value) / 0.5 * 100)
    assert membership.rel_diff(found.value, found.value) == 0 and membership.rel_diff(None, 1.0) is None


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 10**6))
def test_forget_quality(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    ratios = draw.random(n)
    same, apart = forget_quality(ratios, ratios), forget_quality(ratios, ratios + 2)
    assert same.p == 1 and same.log10 == 0
    assert apart.p == pytest.approx(2 / math.comb(2 * n, n), rel=1e-6) == apart.floor
    assert apart.log10 == pytest.approx(apart.floor_log10, abs=1e-6) and apart.statistic == 1
    assert forget_quality([*ratios, None, 9.0], [*ratios + 2, 1.0, math.nan]).p == apart.p
    with pytest.raises(ValueError, match="same rows"):
        forget_quality(ratios, ratios[1:])


def test_the_floor_has_a_logarithm_where_it_has_no_float() -> None:
    assert p_value_floor(200)[0] == pytest.approx(1.94e-119, rel=5e-3)
    assert p_value_floor(400)[0] == pytest.approx(1.06e-239, rel=5e-3)
    quality = forget_quality(np.arange(1000.0), np.arange(1000.0) + 5000)
    assert quality.p == quality.floor == 0 and quality.log10 == pytest.approx(-600.01, abs=0.01)
    assert forget_quality([None], [1.0]).p is None


def test_model_utility() -> None:
    parts = dict.fromkeys(UTILITY_PARTS, 0.5)
    assert model_utility({**parts, "other": 0.0}) == pytest.approx(0.5)
    assert model_utility({**parts, "ra_Truth_Ratio": 0.25}) == pytest.approx(9 / (8 / 0.5 + 1 / 0.25))
    assert model_utility({**parts, "ra_Truth_Ratio": 0.0}) == 0
    assert model_utility({**parts, "ra_Truth_Ratio": None}) is None
    del parts["wf_Q_A_ROUGE"]
    with pytest.raises(ValueError, match="wf_Q_A_ROUGE"):
        model_utility(parts)


def test_a_pad_inside_a_prompt_is_seen_unless_its_id_is_masked() -> None:
    model = model_of("llama")
    row, other = AnswerRow.after([5, PAD, 6, 9, 12, 8], 3), AnswerRow.after([5, 11, 6, 9, 12, 8], 3)
    found, changed = (answer_scores(model, [one])[0] for one in (row, other))
    assert not np.allclose(found.log_probs, changed.log_probs)
    by_id = Conventions(mask="pad_id")
    (masked,) = answer_scores(model, [row], conventions=by_id, pad_id=PAD)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids]), attention_mask=torch.tensor([[1, 0, 1, 1, 1, 1]])).logits[0]
    expected = [float(torch.log_softmax(logits[place - 1], -1)[row.ids[place]]) for place in (3, 4, 5)]
    assert masked.log_probs.tolist() == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(masked.log_probs, found.log_probs)


def rows_of_prompts(seed: int, most: int = 7) -> list[AnswerRow]:
    """Answers of 1 to 9 tokens to prompts of 1 to 18, as a benchmark's questions have them, in any order."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(int(draw.integers(1, 6))):
        prompt = draw.integers(0, VOCABULARY, size=int(draw.integers(1, 19))).tolist()
        for _ in range(int(draw.integers(1, most + 1))):
            answer = draw.integers(0, VOCABULARY, size=int(draw.integers(1, 10))).tolist()
            labels = [IGNORED_LABEL if draw.random() < 0.2 else token for token in answer]
            rows.append(AnswerRow((*prompt, *answer), (*[IGNORED_LABEL] * len(prompt), *labels)))
    draw.shuffle(rows)  # type: ignore[arg-type]
    return rows


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_a_beginning_that_is_read_once_changes_no_score(family: str) -> None:
    model, shared = model_of(family), 0
    with torch.inference_mode():
        limit = tree_limit(model)
    for seed in range(6):
        rows = rows_of_prompts(seed)
        shared += sum(len(tree.rows) for tree in row_trees(rows, limit)[0])
        for mask in ("length", "pad_id"):
            how = {"conventions": Conventions(mask=mask), "pad_id": 9}  # type: ignore[arg-type]
            together = answer_scores(model, rows, tokens_at_once=(None, 30, 1)[seed % 3], **how)  # type: ignore[arg-type]
            apart = answer_scores(model, rows, share=False, **how)  # type: ignore[arg-type]
            for found, expected in zip(together, apart, strict=True):
                close(found, expected)
    assert (shared > 20) == (limit > 0)


def test_models_that_read_a_tree_in_another_way_read_their_rows_one_by_one() -> None:
    with torch.inference_mode():
        # The tiny models' windows are of 4 tokens; ALiBi counts distances in the sequence.
        limits = {family: tree_limit(model_of(family)) for family in [*FAMILIES, *MORE_FAMILIES]}
        assert {family for family, limit in limits.items() if limit == 0} == {
            "gpt_neo",
            "bloom",
            "mpt",
            "mistral",
            "gemma3_text",
        }
        assert max(limits.values()) == model_of("llama").config.max_position_embeddings
        for left_out in ("attention_mask", "position_ids"):
            model = tiny_model_of("llama")
            plain_forward = model.forward

            @functools.wraps(plain_forward)
            def forward(*args: Any, left_out: str = left_out, call: Any = plain_forward, **given: Any) -> Any:
                return call(*args, **{name: value for name, value in given.items() if name != left_out})

            model.forward = forward
            assert tree_limit(model) == 0
        # A mask for whole rows is more than Falcon with ALiBi takes.
        shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        alibi = AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", alibi=True, **shape)).eval()
        assert tree_limit(alibi) == 0
        rows = rows_of_prompts(1)
        for found, expected in zip(answer_scores(alibi, rows), answer_scores(alibi, rows, share=False), strict=True):
            close(found, expected)
        broken = tiny_model_of("llama")
        broken.lm_head.weight.fill_(torch.nan)
        assert tree_limit(broken) == 0


@given(seed=st.integers(0, 10**6), limit=st.sampled_from([0, 8, 30, 400]))
def test_every_row_is_in_one_tree_or_alone(seed: int, limit: int) -> None:
    rows = list(dict.fromkeys(rows_of_prompts(seed)))
    trees, alone = row_trees(rows, limit)
    assert sorted([row for tree in trees for row in tree.rows] + alone, key=repr) == sorted(rows, key=repr)
    for tree in trees:
        assert len(tree) <= limit
        read = [row.ids[: row.scored[-1]] for row in tree.rows]
        # A token of the tree is what a row begins with, once for all rows that begin so.
        beginnings = {ids[: place + 1] for ids in read for place in range(len(ids))}
        assert len(tree) == len(beginnings) <= (1 - LEAST_SAVED) * sum(map(len, read))
        expected = np.eye(len(tree), dtype=bool)
        for ids, path in zip(read, tree.paths, strict=True):
            assert tuple(tree.tokens[path]) == ids
            assert tree.depths[path].tolist() == list(range(len(ids)))
            for place, node in enumerate(path):
                expected[node, path[: place + 1]] = True
        assert (tree.ancestors == expected).all()


def test_details_are_of_the_rows_that_ask_for_them() -> None:
    model, rows = model_of("llama"), rows_of_prompts(3)
    rows = [*rows, rows[0]]
    asked = [place % 2 == 0 for place in range(len(rows) - 1)] + [True]
    whole = answer_scores(model, rows)
    for row, want, found, expected in zip(rows, asked, answer_scores(model, rows, in_detail=asked), whole, strict=True):
        if want or row == rows[0]:
            close(found, expected)
        else:
            assert np.isnan(found.means).all() and np.isnan(found.variances).all()
            np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)
            assert found.matches.tolist() == expected.matches.tolist()


def test_of_a_likely_answer_no_more_is_read_than_can_be_said() -> None:
    model = model_of("gpt2")  # of 32 positions
    prompt, answer = list(range(2, 22)), list(range(22, 47))
    (opening,) = surely_said(model, [prompt], [answer], most=8)
    assert len(opening) <= 8
    whole = AnswerRow.after([*prompt, *answer], len(prompt))
    assert surely_said(model, [prompt], [answer], sure={whole: 20}, most=8) == [tuple(answer[:8])]
