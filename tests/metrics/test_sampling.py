"""Sampling: the same tokens as one row at a time by torch.multinomial without a cache, whatever stands beside it.

Needs: nothing.
"""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from icu_ray.errors import UserError
from icu_ray.metrics.sampling import sample_continuations
from tests.support.tiny_models import FAMILIES, PAD, tiny_model

model_of = functools.cache(tiny_model)


def plainly(
    model: PreTrainedModel, prompt: list[int], seed: int, count: int, temperature: float, ends: set[int]
) -> tuple[int, ...]:
    """One continuation, token by token, each from a forward of all tokens so far."""
    generator, ids = torch.Generator().manual_seed(seed), list(prompt)
    while len(ids) < len(prompt) + count:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1].float()
        token = int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator))
        if token in ends:
            break
        ids.append(token)
    return tuple(ids[len(prompt) :])


prompts = st.lists(st.lists(st.integers(2, 60), min_size=1, max_size=12), min_size=1, max_size=6)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15, deadline=None)
@given(prompts=prompts, seed=st.integers(0, 2**63 - 9), temperature=st.sampled_from([0.5, 1.0, 2.0]), data=st.data())
def test_as_one_row_at_a_time_without_a_cache(
    family: str, prompts: list[list[int]], seed: int, temperature: float, data: st.DataObject
) -> None:
    model, ends = model_of(family), {PAD, 5, 6, 7, 8}
    seeds = [[seed + number for number in range(data.draw(st.integers(0, 3)))] for _ in prompts]
    at_once = data.draw(st.integers(1, 6))
    counts = [data.draw(st.sampled_from([0, 1, 4, 9])) for _ in prompts]
    how = {"max_new_tokens": counts, "temperature": temperature, "pad_id": PAD, "ends": ends}
    found = sample_continuations(model, prompts, seeds, at_once=at_once, **how)
    expected = [
        [plainly(model, p, s, count, temperature, ends) for s in each]
        for p, each, count in zip(prompts, seeds, counts, strict=True)
    ]
    assert found == expected


def test_a_continuation_ends_where_the_positions_do() -> None:
    model = model_of("gpt_neo")  # of 32 positions
    long, short = [3] * 28, [4] * 5
    found = sample_continuations(
        model,
        [long, [3] * 32, short, [3] * 40],
        [[1, 2], [3], [4], [5]],
        max_new_tokens=20,
        temperature=1.0,
        pad_id=PAD,
        ends=(),
    )
    assert [[len(tokens) for tokens in each] for each in found] == [[4, 4], [0], [20], [0]]
    assert found[0][1] == plainly(model, long, 2, 4, 1.0, set())
    assert found[2][0] == plainly(model, short, 4, 20, 1.0, set())


def test_frequencies_follow_the_temperature() -> None:
    model, prompt = model_of("llama"), [9, 8, 7]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    for temperature in (0.5, 1.0, 3.0):
        found = sample_continuations(
            model, [prompt], [range(4000)], max_new_tokens=1, temperature=temperature, pad_id=PAD, ends=()
        )
        counted = Counter(tokens[0] for tokens in found[0])
        told = torch.softmax(logits / temperature, -1)
        for token in told.topk(5).indices.tolist():
            p = float(told[token])
            assert abs(counted[token] / 4000 - p) < 5 * (p * (1 - p) / 4000) ** 0.5


def test_scores_that_are_not_finite_are_refused_and_the_mode_is_kept() -> None:
    model = tiny_model("llama").train()
    how = {"max_new_tokens": 2, "temperature": 1.0, "pad_id": PAD, "ends": ()}
    told: list[float] = []
    sample_continuations(model, [[3], [4]], [[1], [2]], on_part=told.append, at_once=1, **how)
    assert model.training and told == sorted(told) and 0.5 in told
    torch.nn.init.constant_(model.get_output_embeddings().weight, torch.nan)
    with pytest.raises(UserError, match="not finite"):
        sample_continuations(model, [[3]], [[1]], **how)
    assert model.training
