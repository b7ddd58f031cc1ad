"""Keys and values that share a prefix: every operation gives what the plain tensor gives.

Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM, PreTrainedModel

from icu_ray.metrics.prefixed import Grouping, PrefixedStates
from icu_ray.metrics.probe import probe
from tests.metrics.test_probe import COLUMNS, plain_el, rows_of, taught
from tests.support.tiny_models import FAMILIES

HEADS, PREFIX, OWN, WIDTH = 2, 5, 3, 4


def states(sources: list[int], sequences: int, seed: int) -> PrefixedStates:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(sequences, HEADS, PREFIX, WIDTH, generator=generator)
    own = torch.randn(len(sources), HEADS, OWN, WIDTH, generator=generator)
    return PrefixedStates(shared, own, Grouping.of(torch.tensor(sources)))


def plain(found: PrefixedStates) -> Tensor:
    """Row by row: the sequence's prefix, then the row's own columns."""
    pairs = zip(found.grouping.sources.tolist(), found.own, strict=True)
    return torch.stack([torch.cat([found.shared[source], own], dim=1) for source, own in pairs])


@settings(max_examples=60, deadline=None)
@given(sources=st.lists(st.integers(0, 3), min_size=1, max_size=9), seed=st.integers(0, 9), queries=st.integers(1, 3))
def test_products_and_attention(sources: list[int], seed: int, queries: int) -> None:
    keys, values = states(sources, 4, seed), states(sources, 4, seed + 100)
    k, v = plain(keys), plain(values)
    assert keys.shape == k.shape
    assert keys.transpose(-1, -2).shape == k.transpose(-1, -2).shape
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(len(sources), HEADS, queries, WIDTH, generator=generator)
    weights = torch.randn(len(sources), HEADS, queries, PREFIX + OWN, generator=generator)
    several = torch.randn(len(sources), 3 * HEADS, 1, WIDTH, generator=generator)
    seen = torch.rand(len(sources), 1, queries, PREFIX + OWN, generator=generator) < 0.7
    seen[..., 0] = True
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(torch.matmul(query, keys.transpose(2, 3)), query @ k.transpose(2, 3), **close)
    torch.testing.assert_close(weights @ values, weights @ v, **close)
    torch.testing.assert_close(attention(query, keys, values), attention(query, k, v), **close)
    torch.testing.assert_close(attention(query, keys, values, scale=0.3), attention(query, k, v, scale=0.3), **close)
    added = torch.where(seen, 0.0, -1e9)
    for mask in (seen, added):
        torch.testing.assert_close(attention(query, keys, values, mask), attention(query, k, v, mask), **close)
    grouped = attention(several, keys, values, enable_gqa=True)
    torch.testing.assert_close(grouped, attention(several, k, v, enable_gqa=True), **close)


OTHER_OPERATIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).reshape(len(x), 2 * HEADS, -1, WIDTH),
    lambda x: x.transpose(1, 2),
    lambda x: x * 2 + 1,
    lambda x: torch.cat([x, x], dim=2),
    lambda x: x.to("cpu", torch.float64),
    lambda x: x.to(torch.bfloat16).transpose(-1, -2) @ torch.ones(len(x), HEADS, PREFIX + OWN, 1, dtype=torch.bfloat16),
    lambda x: x @ torch.ones(WIDTH, 2),
    lambda x: torch.einsum("rhcw,rhcw->rhc", x, x),
]


@pytest.mark.parametrize("operation", OTHER_OPERATIONS)
def test_any_other_operation_gets_the_whole_tensor(operation: Callable[[Tensor], Tensor]) -> None:
    found = states([2, 0, 2, 1], 3, seed=1)
    torch.testing.assert_close(operation(found), operation(plain(found)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tested_families_never_need_the_whole_tensor(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = taught(family, seed=3, steps=15)
    calls: list[int] = []
    monkeypatch.setattr(PrefixedStates, "whole", lambda self: calls.append(1) or plain(self))
    probe(model, rows_of(ids, COLUMNS, eos=4, pad=1), ngram=2, el_start=5)
    assert calls == []


def other_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=67, n_embd=24, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3)
        )
    config = MistralConfig(
        vocab_size=67,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        sliding_window=5,
        initializer_range=0.3,
    )
    return MistralForCausalLM(config)


@pytest.mark.parametrize("name", ["gpt2", "mistral with a sliding window"])
@pytest.mark.parametrize("attention_code", ["sdpa", "eager"])
def test_models_that_nobody_wrote_code_for(name: str, attention_code: str) -> None:
    model = other_model(name).eval()
    model.set_attn_implementation(attention_code)
    ids = np.random.default_rng(3).integers(2, 9, size=(4, COLUMNS.length))
    result = probe(model, rows_of(ids, COLUMNS, eos=4, pad=1), ngram=2, el_start=5)
    assert result.el is not None
    expected = [plain_el(model, row, 5, 2, 4) for row in ids.tolist()]
    assert result.el.tolist() == pytest.approx(expected, abs=1e-12)
