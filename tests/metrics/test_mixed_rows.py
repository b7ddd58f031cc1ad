"""Rows of any length with boundaries of their own are measured together, and each is measured as if it were alone.

Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, PreTrainedModel

from icu_ray.config import Columns, ElConfig
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.padding import left_pad
from icu_ray.metrics.perplexity import total_nll
from icu_ray.metrics.probe import probe
from icu_ray.models.reference import Cache, build_reference
from icu_ray.training.validation import Measure, _generate
from tests.metrics.test_prefixed import other_model
from tests.metrics.test_probe import plain_el
from tests.support.tiny_models import FAMILIES, PAD, tiny_model_of
from tests.support.training_case import FILTER

LENGTH = 24
EOS = 4
MODELS = [*FAMILIES, "bloom", "gpt2", "mistral with a sliding window"]
Texts = Sequence[tuple[list[int], int]]
"""Each row's tokens and how many of them are its prompt."""


def some_texts(count: int, seed: int) -> Texts:
    """Few distinct tokens, so that n-grams recur and end-of-text is said by itself; of 2 to LENGTH tokens."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, LENGTH + 1, size=count)
    return [(rng.integers(2, 9, size=size).tolist(), int(rng.integers(1, size))) for size in sizes]


@lru_cache
def taught(name: str, seed: int, steps: int = 12) -> tuple[PreTrainedModel, Texts]:
    """A model part of the way to knowing its rows, so that continuations copy, err and recover."""
    model = other_model(name) if "mistral" in name else tiny_model_of(name, seed)
    texts = some_texts(7, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        for tokens, _ in texts:
            optimizer.zero_grad()
            ids = torch.tensor([tokens])
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    return model.eval(), texts


def rows_of(texts: Texts, eos: int | None = EOS, length: int = LENGTH) -> TokenRows:
    """As data/prompts.py makes them."""
    ids, mask = left_pad([tokens for tokens, _ in texts], length, PAD)
    prompts, seen = left_pad([tokens[:given] for tokens, given in texts], max(given for _, given in texts), PAD)
    starts = tuple(length - len(tokens) + given for tokens, given in texts)
    labels = np.where(np.arange(length) >= np.asarray(starts)[:, None], ids, IGNORED_LABEL)
    names = tuple(str(number) for number in range(len(texts)))
    columns = Columns(length, length - 6, length - 4)
    return TokenRows(names, ids, mask, labels, prompts, seen, ("",) * len(texts), columns, PAD, eos, starts=starts)


@lru_cache(maxsize=4096)
def by_definition(name: str, seed: int, row: int, n: int, eos: int | None) -> tuple[float, float, float]:
    """MA, loss and EL of one row alone, whatever stands beside it."""
    model, texts = taught(name, seed)
    tokens, given = texts[row]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, given - 1 : -1]
    truth = torch.tensor(tokens[given:])
    el = plain_el(model, tokens, given, n, eos) if len(truth) >= n else np.nan
    loss = torch.nn.functional.cross_entropy(logits, truth)
    return float((logits.argmax(-1) == truth).double().mean()), float(loss), el


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    seed=st.integers(0, 1),
    eos=st.sampled_from([EOS, None]),
    members=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    n=st.sampled_from([1, 3]),
    chunk=st.sampled_from([64, 4, 1]),
    at_once=st.sampled_from([1024, 60, 7]),
    asks=st.booleans(),
)
def test_measures_in_company_are_those_of_each_row_alone(
    name: str, seed: int, eos: int | None, members: list[int], n: int, chunk: int, at_once: int, asks: bool
) -> None:
    model, texts = taught(name, seed)
    rows = rows_of([texts[row] for row in members], eos)
    with pytest.MonkeyPatch.context() as patch:
        for place in ("greedy_decoding", "kv_cache"):
            patch.setattr(f"icu_ray.metrics.{place}.TOKENS_AT_ONCE_ON_CPU", at_once)
        found = probe(model, rows, ngram=n, chunk=chunk, should_decode=(lambda ma: True) if asks else None)
    wanted = np.asarray([by_definition(name, seed, row, n, eos) for row in members])
    assert found.el is not None and not found.broken.any()
    np.testing.assert_allclose(found.ma, wanted[:, 0], atol=1e-12)
    np.testing.assert_allclose(found.forget_loss, wanted[:, 1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.el, wanted[:, 2], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    seed=st.integers(0, 1),
    eos=st.sampled_from([EOS, None]),
    members=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    beams=st.integers(1, 3),
    batch=st.sampled_from([128, 3]),
)
def test_what_is_said_in_company_is_what_generate_says_of_each_prompt_alone(
    name: str, seed: int, eos: int | None, members: list[int], beams: int, batch: int
) -> None:
    model, texts = taught(name, seed)
    measure = Measure(FILTER.model_copy(update={"beams": beams, "batch_size": batch}), el=ElConfig(ngram=2))
    said = _generate(model, rows_of([texts[row] for row in members], eos), measure)
    for row, found in zip(members, said, strict=True):
        tokens, given = texts[row]
        settings_ = GenerationConfig(
            max_new_tokens=len(tokens) - given,
            num_beams=beams,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=eos,
            bos_token_id=None,
        )
        prompt = torch.tensor([tokens[:given]])
        model.generation_config = settings_
        with torch.no_grad():
            wanted = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings_)
        wanted = wanted[0, given:].tolist()
        assert found.tolist() == wanted + [PAD] * (len(tokens) - given - len(wanted))


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_any_length_and_boundary_share_batches(name: str) -> None:
    model, _ = taught(name, 0)
    rows = rows_of(some_texts(40, seed=5), eos=None)
    assert len(set(zip(rows.mask.sum(axis=1).tolist(), rows.starts or (), strict=True))) > 30
    forwards: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: forwards.append(1))
    try:
        probe(model, rows, ngram=2)
        # The rows themselves, then a token at a time.
        assert len(forwards) < 2 + LENGTH
        forwards.clear()
        _generate(model, rows, Measure(FILTER, el=ElConfig(ngram=2)))
        assert len(forwards) < 3 + LENGTH
    finally:
        handle.remove()


def test_a_long_prompt_beside_a_long_completion_stays_within_the_model_s_positions() -> None:
    """Together they would be wider than the 32 positions that the model has."""
    model, _ = taught("gpt_neo", 0)
    rng = np.random.default_rng(0)
    texts = [(rng.integers(2, 9, size=30).tolist(), given) for given in (26, 4, 20, 12)]
    measure = Measure(FILTER, el=ElConfig(ngram=2))
    said = _generate(model, rows_of(texts, None, 30), measure)
    for text, found in zip(texts, said, strict=True):
        assert found.tolist() == _generate(model, rows_of([text], None, 30), measure)[0].tolist()


def test_a_token_that_breaks_the_model_breaks_no_row_without_it() -> None:
    """Neither as the pad nor in a neighbour."""
    model, texts = taught("llama", 1)
    kept = model.model.embed_tokens.weight.detach().clone()
    rows = rows_of(texts, None)
    for token in (PAD, 6):
        meets = np.asarray([token in tokens[:-1] for tokens, _ in texts])
        with torch.no_grad():
            model.model.embed_tokens.weight[token] = np.nan
        found = probe(model, rows, ngram=2, should_decode=lambda ma: False)
        with torch.no_grad():
            model.model.embed_tokens.weight.copy_(kept)
        assert np.isnan(found.ma)[meets].all()
        assert not np.isnan(found.ma)[[token not in tokens for tokens, _ in texts]].any()


def test_pads_that_all_rows_have_are_not_read() -> None:
    model, texts = taught("gpt_neo", 0)
    short = [(tokens[:9], given) for tokens, given in texts if given < 8]
    widths: list[int] = []
    handle = model.transformer.wte.register_forward_pre_hook(lambda _, given: widths.append(given[0].shape[1]))
    try:
        narrow, wide = (total_nll(model, rows) for rows in (rows_of(short, length=10), rows_of(short)))
    finally:
        handle.remove()
    assert max(width for width in widths if width > 4) <= 10
    assert wide == pytest.approx(narrow, rel=1e-6)


@pytest.mark.parametrize("cache", ["hidden", "probs"])
def test_the_reference_at_pads_is_that_of_the_whole_row_whatever_stands_beside_it(cache: Cache) -> None:
    """loss.kl_positions=padded counts the divergence there too."""
    model, texts = taught("gpt_neo", 0)
    rows = rows_of([(tokens[:9], given) for tokens, given in texts if given < 8])
    kept = build_reference(model, rows, cache).batch(range(len(rows)))
    position_ids = rows.position_ids
    assert position_ids is not None
    for row in range(len(rows)):
        with torch.no_grad():
            states = model.transformer(
                input_ids=torch.from_numpy(rows.input_ids[[row]]),
                attention_mask=torch.from_numpy(rows.mask[[row]].astype(np.int64)),
                position_ids=torch.from_numpy(position_ids[[row]]),
            ).last_hidden_state
            expected = states if cache == "hidden" else model.lm_head(states).softmax(-1)
        found = kept.hidden if cache == "hidden" else kept.probs
        assert found is not None
        torch.testing.assert_close(found[[row]], expected, rtol=1e-4, atol=1e-5)
