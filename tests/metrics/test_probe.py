"""The fast probe against plain code that generates from every prefix anew, and against the authors' numbers.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from icu_ray.config import Columns
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.metrics.extraction_likelihood import Continuations, copied_until, extraction_likelihood
from icu_ray.metrics.greedy_decoding import PossibleMatches
from icu_ray.metrics.probe import probe
from tests.support.tiny_models import FAMILIES, tiny_model

COLUMNS = Columns(24, 8, 14)


def rows_of(ids: np.ndarray, columns: Columns, eos: int | None, pad: int, mask: np.ndarray | None = None) -> TokenRows:
    mask = np.ones_like(ids, dtype=bool) if mask is None else mask
    labels = np.where(mask & (ids != pad), ids, IGNORED_LABEL)
    prompt = slice(columns.prefix_start, columns.suffix_start)
    names = tuple(f"r{i}" for i in range(len(ids)))
    return TokenRows(names, ids, mask, labels, ids[:, prompt], mask[:, prompt], ("",) * len(ids), columns, pad, eos)


def greedy(model: PreTrainedModel, prefix: list[int], length: int, eos: int | None) -> list[int]:
    """Plain: one whole forward for every token, no cache."""
    row = list(prefix)
    while len(row) < length:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax())
        row.append(token)
        if token == eos:
            break
    return row[len(prefix) :]


def plain_el(model: PreTrainedModel, row: list[int], start: int, n: int, eos: int | None) -> float:
    length = len(row)

    def grams(tokens: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    total = 0.0
    for t in range(length - 1, start - 1, -1):
        label = grams(row[t:])
        if label:
            total += sum(g in set(label) for g in grams(greedy(model, row[:t], length, eos))) / len(label)
    return total / (length - start - (n - 1))


def plain_ma_and_loss(model: PreTrainedModel, row: list[int], pad: int) -> tuple[float, float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1]
    truth = torch.tensor(row[1:])
    nll = -logits.log_softmax(-1)[torch.arange(len(truth)), truth]
    return float((logits.argmax(-1) == truth).double().mean()), float(nll[truth != pad].mean())


def taught(family: str, seed: int, steps: int) -> tuple[PreTrainedModel, np.ndarray]:
    """A tiny model part of the way to knowing its rows, so that continuations copy, err and recover."""
    model = tiny_model(family, seed)
    rng = np.random.default_rng(seed)
    # Few distinct tokens, so that n-grams recur and end-of-text is said by itself.
    ids = rng.integers(2, 9, size=(5, COLUMNS.length))
    tensor = torch.from_numpy(ids)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=tensor, labels=tensor).loss.backward()
        optimizer.step()
    return model.eval(), ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [0, 12, 40])
def test_equals_generating_from_every_prefix(family: str, steps: int) -> None:
    model, ids = taught(family, seed=steps, steps=steps)
    result = probe(model, rows_of(ids, COLUMNS, eos=None, pad=1), ngram=3)
    for i, row in enumerate(ids.tolist()):
        ma, loss = plain_ma_and_loss(model, row, pad=1)
        assert result.ma[i] == pytest.approx(ma, abs=1e-12)
        assert result.forget_loss[i] == pytest.approx(loss, abs=1e-5)
        assert result.el is not None
        assert result.el[i] == pytest.approx(plain_el(model, row, COLUMNS.suffix_start, 3, None), abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [8, 2, 1])
def test_end_of_text_ends_a_continuation(family: str, chunk: int) -> None:
    model, ids = taught(family, seed=3, steps=15)
    eos = 4  # a token that stands in the rows and is often said
    result = probe(model, rows_of(ids, COLUMNS, eos=eos, pad=1), ngram=2, el_start=5, chunk=chunk)
    expected = [plain_el(model, row, 5, 2, eos) for row in ids.tolist()]
    assert result.el is not None
    assert result.el.tolist() == pytest.approx(expected, abs=1e-12)
    assert any(value > 0 for value in expected)


@lru_cache(maxsize=64)
def repetitive(family: str) -> tuple[PreTrainedModel, np.ndarray]:
    """Rows that repeat themselves, half learnt: the same n-grams stand in many places of label and continuation."""
    model = tiny_model(family, seed=7)
    rng = np.random.default_rng(7)
    ids = np.concatenate([rng.integers(2, 4, size=(4, COLUMNS.length)), np.tile(rng.integers(2, 7, size=(4, 6)), 4)])
    tensor = torch.from_numpy(ids)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(8):
        optimizer.zero_grad()
        model(input_ids=tensor, labels=tensor).loss.backward()
        optimizer.step()
    return model.eval(), ids


@lru_cache(maxsize=4096)
def whole(family: str, row: int, prefix: int) -> tuple[int, ...]:
    model, ids = repetitive(family)
    return tuple(greedy(model, ids[row, :prefix].tolist(), COLUMNS.length, None))


def said(family: str, row: int, prefix: int, eos: int | None) -> tuple[int, ...]:
    """What it says up to the end of text, which changes nothing of what comes before it."""
    tokens = whole(family, row, prefix)
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    eos=st.sampled_from([2, 3, 5, None]),
    batch=st.sampled_from([8, 2, 1, None]),
    n=st.integers(1, 12),
    start=st.integers(1, COLUMNS.length - 1),
    chunk=st.sampled_from([8, 3, 1]),
    at_once=st.sampled_from([1024, 60, 7]),
)
def test_end_of_text_everywhere(
    family: str, eos: int | None, batch: int | None, n: int, start: int, chunk: int, at_once: int
) -> None:
    """Plain counting, generate()'s pads within a batch included; n-grams may be longer than every tail."""
    model, ids = repetitive(family)
    length, pad = COLUMNS.length, 1
    with pytest.MonkeyPatch.context() as patch:
        for place in ("greedy_decoding", "kv_cache"):
            patch.setattr(f"icu_ray.metrics.{place}.TOKENS_AT_ONCE_ON_CPU", at_once)
        result = probe(model, rows_of(ids, COLUMNS, eos, pad), ngram=n, el_start=start, batch_cut=batch, chunk=chunk)

    def grams(tokens: list[int]) -> list[tuple[int, ...]]:
        return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    expected = np.zeros(len(ids))
    for t in range(start, length - n + 1):
        for i in range(len(ids)):
            first = i - i % (batch or 1)
            mates = [said(family, k, t, eos) for k in range(first, min(first + (batch or 1), len(ids)))]
            row = [*said(family, i, t, eos)]
            row += [pad] * (max(map(len, mates)) - len(row) if eos is not None and batch is not None else 0)
            label = grams(ids[i, t:].tolist())
            expected[i] += sum(gram in set(label) for gram in grams(row)) / len(label)
    prefixes = length - start - (n - 1)
    expected = expected / prefixes if prefixes > 0 else expected * math.nan
    assert result.short.all() == result.short.any() == (prefixes <= 0)
    assert result.el is not None
    np.testing.assert_allclose(result.el, expected, atol=1e-12)


def test_small_cache_budget_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = taught("gpt_neo", seed=5, steps=10)
    rows = rows_of(ids, COLUMNS, eos=4, pad=1)
    whole = probe(model, rows, ngram=2, el_start=3)
    monkeypatch.setattr("icu_ray.metrics.greedy_decoding.CACHE_BYTES", 1)
    monkeypatch.setattr("icu_ray.metrics.kv_cache.LOGITS_AT_ONCE", 1)
    parts = probe(model, rows, ngram=2, el_start=3, chunk=2)
    np.testing.assert_array_equal(whole.el, parts.el)
    np.testing.assert_array_equal(whole.ma, parts.ma)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_are_measured_as_if_the_pads_were_not_there(family: str) -> None:
    model, ids = taught(family, seed=2, steps=20)
    mask = np.ones_like(ids, dtype=bool)
    for i, pads in enumerate((0, 3, 3, 10, 0)):
        ids[i, :pads], mask[i, :pads] = 1, False
    result = probe(model, rows_of(ids, COLUMNS, eos=None, pad=1, mask=mask), ngram=2)
    for i in range(len(ids)):
        real = ids[i][mask[i]].tolist()
        ma, loss = plain_ma_and_loss(model, real, pad=1)
        assert result.ma[i] == pytest.approx(ma, abs=1e-12)
        assert result.forget_loss[i] == pytest.approx(loss, rel=1e-5)
        start = COLUMNS.suffix_start - int((~mask[i]).sum())
        assert result.el is not None
        assert result.el[i] == pytest.approx(plain_el(model, real, start, 2, None), abs=1e-12)


def test_decision_only_mode_leaves_el_out_and_asks_once() -> None:
    model, ids = taught("llama", seed=1, steps=20)
    rows = rows_of(ids, COLUMNS, eos=None, pad=1)
    asked: list[float] = []

    def no(ma: np.ndarray) -> bool:
        asked.append(float(ma.mean()))
        return False

    result = probe(model, rows, ngram=2, should_decode=no)
    assert result.el is None
    assert asked == [result.ma_mean]
    for chunk in (64, 2):
        full = probe(model, rows, ngram=2, chunk=chunk, should_decode=lambda ma: True)
        np.testing.assert_array_equal(full.el, probe(model, rows, ngram=2).el)


def test_a_broken_model_is_measured() -> None:
    model = tiny_model("gpt_neo")
    with torch.no_grad():
        model.transformer.wte.weight.fill_(math.nan)
    result = probe(model, rows_of(np.full((2, 24), 5), COLUMNS, eos=None, pad=1), ngram=3)
    assert result.el is not None
    for values in (result.forget_loss, result.ma, result.el):
        assert np.isnan(values).all()
    assert result.broken.all()
    assert (result.ma_mean, result.el_mean, result.forget_loss_mean) == (None, None, None)


@pytest.mark.parametrize("batch", [None, 2])
def test_what_cannot_be_measured_is_in_no_mean(batch: int | None) -> None:
    """Left padded as short texts are: 24, 5, 4 and 1 tokens, of which an n-gram of 4 needs 5."""
    model, ids = taught("llama", seed=2, steps=40)
    ids, mask = ids[:4].copy(), np.ones((4, 24), dtype=bool)
    for i, tokens in enumerate((24, 5, 4, 1)):
        ids[i, : 24 - tokens], mask[i, : 24 - tokens] = 1, False
    rows = rows_of(ids, COLUMNS, eos=0, pad=1, mask=mask)
    result = probe(model, rows, ngram=4, batch_cut=batch)
    assert result.el is not None
    assert result.short.tolist() == np.isnan(result.el).tolist() == [False, False, True, True]
    assert np.isnan(result.ma).tolist() == np.isnan(result.forget_loss).tolist() == [False, False, False, True]
    assert not result.broken.any()
    assert result.el_mean == pytest.approx(result.el[:2].mean())
    assert result.ma_mean == pytest.approx(result.ma[:3].mean())
    assert result.forget_loss_mean == pytest.approx(result.forget_loss[:3].mean())
    nothing = probe(model, rows.select([3]), ngram=4)
    assert (nothing.ma_mean, nothing.el_mean, nothing.forget_loss_mean) == (None, None, None)


@pytest.mark.parametrize("batch", [None, 2])
def test_scores_that_break_at_one_token_spoil_the_rows_that_meet_it(batch: int | None) -> None:
    model, ids = taught("llama", seed=4, steps=12)
    whole = probe(model, rows_of(ids, COLUMNS, eos=3, pad=1), ngram=2, el_start=5, batch_cut=batch)
    assert whole.el is not None and not whole.broken.any()
    # A token that is said after some prefixes and stands in some rows.
    said = [{t for p in range(5, 23) for t in greedy(model, row[:p], 24, 3)} for row in ids.tolist()]
    for token in range(2, 9):
        meets = np.asarray([token in row.tolist() or token in more for row, more in zip(ids, said, strict=True)])
        with torch.no_grad():
            kept = model.model.embed_tokens.weight[token].clone()
            model.model.embed_tokens.weight[token] = math.nan
        found = probe(model, rows_of(ids, COLUMNS, eos=3, pad=1), ngram=2, el_start=5, batch_cut=batch)
        with torch.no_grad():
            model.model.embed_tokens.weight[token] = kept
        assert found.el is not None
        # The last token that is said is not read again, so meeting it may do no harm.
        assert not (found.broken & ~meets).any()
        assert all(found.broken[[token in row[:-1] for row in ids.tolist()]])
        assert np.isnan(found.el[found.broken]).all()
        np.testing.assert_array_equal(found.ma[~found.broken], whole.ma[~found.broken])
        if batch is None:
            np.testing.assert_array_equal(found.el[~found.broken], whole.el[~found.broken])


def test_scores_that_break_in_a_continuation_leave_no_el() -> None:
    row = np.random.default_rng(0).integers(2, 9, size=(1, COLUMNS.length))
    models = (tiny_model("llama", seed) for seed in range(9))
    found = ((model, greedy(model, row[0, :6].tolist(), 7, None)[0]) for model in models)
    model, said = next((model, token) for model, token in found if token not in row)  # so that MA is known
    with torch.no_grad():
        model.model.embed_tokens.weight[said] = math.nan
    result = probe(model, rows_of(row, COLUMNS, eos=None, pad=1), ngram=2, el_start=6)
    assert result.el is not None
    assert np.isfinite(result.ma).all() and np.isnan(result.el).all() and result.broken.all()
    assert (result.ma_mean, result.el_mean) == (None, None)


@settings(max_examples=200, deadline=None)
@given(
    truth=st.lists(st.integers(0, 2), min_size=8, max_size=14),
    right=st.lists(st.booleans(), min_size=14, max_size=14),
    said=st.lists(st.integers(0, 2), min_size=14, max_size=14),
    n=st.integers(1, 4),
    start=st.integers(1, 5),
)
def test_counting_equals_counting_each_prefix(
    truth: list[int], right: list[bool], said: list[int], n: int, start: int
) -> None:
    length = len(truth)
    row = np.asarray(truth, dtype=np.int64)
    ends = copied_until(np.asarray(right[:length]), row, None)
    tails = {d: np.asarray(said[: length - d], dtype=np.int64) for d in range(length)}
    continuations = Continuations(row, ends, tails)
    total = 0.0
    for t in range(length - n, start - 1, -1):
        generated = continuations.tokens(t).tolist()
        label = {tuple(truth[i : i + n]) for i in range(t, length - n + 1)}
        hits = sum(tuple(generated[i : i + n]) in label for i in range(len(generated) - n + 1))
        total += hits / (length - t - n + 1)
    expected = total / (length - start - (n - 1)) if length - n >= start else math.nan
    assert extraction_likelihood(continuations, start, n) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=300, deadline=None)
@given(
    truth=st.lists(st.integers(0, 2), min_size=8, max_size=14),
    right=st.lists(st.booleans(), min_size=14, max_size=14),
    said=st.lists(st.integers(0, 2), min_size=14, max_size=14),
    n=st.integers(1, 5),
    start=st.integers(1, 5),
)
def test_what_follows_where_nothing_can_match_does_not_count(
    truth: list[int], right: list[bool], said: list[int], n: int, start: int
) -> None:
    row = np.asarray(truth, dtype=np.int64)
    ends = copied_until(np.asarray(right[: len(truth)]), row, None)
    whole = {d: np.asarray(said[: len(truth) - d], dtype=np.int64) for d in range(len(truth))}
    matches, cut = PossibleMatches(row, start, n), {}
    for d, tail in whole.items():
        going = [matches.may_follow(d, int(token), d + i) for i, token in enumerate(tail)]
        cut[d] = tail[: going.index(False) + 1] if False in going else tail
    values = [extraction_likelihood(Continuations(row, ends, tails), start, n) for tails in (whole, cut)]
    assert values[0] == pytest.approx(values[1], abs=0, nan_ok=True)


class TestOracle:
    """The authors' own functions on a small model (../shared/oracles/A)."""

    @pytest.fixture(scope="class")
    def oracle(self, shared: Path) -> tuple[PreTrainedModel, dict, dict]:  # type: ignore[type-arg]
        folder = shared / "oracles" / "A"
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        return (
            model,
            json.loads((folder / "inputs.json").read_text()),
            json.loads((folder / "expected.json").read_text()),
        )

    @staticmethod
    def rows(inputs: dict, eos: int = 1999) -> TokenRows:  # type: ignore[type-arg]
        return rows_of(np.asarray(inputs["target_ids"]), Columns(), eos=eos, pad=eos)

    def test_ma_loss_and_el(self, oracle) -> None:  # type: ignore[no-untyped-def]
        model, inputs, expected = oracle
        result = probe(model, self.rows(inputs))
        assert result.ma_mean == pytest.approx(expected["ma"]["mean_of_batches"], abs=1e-6)
        np.testing.assert_allclose(result.forget_loss, expected["forget_loss"]["per_sequence"], atol=1e-5)
        np.testing.assert_allclose(result.el, expected["el_icu"]["batch8"]["10"]["per_sequence"], atol=1e-9)

    def test_el_from_the_first_token(self, oracle) -> None:  # type: ignore[no-untyped-def]
        model, inputs, expected = oracle
        result = probe(model, self.rows(inputs), el_start=1)
        np.testing.assert_allclose(result.el, expected["el_ku"]["per_sequence"], atol=1e-6)

    @pytest.mark.parametrize("batch", [8, 1, None])
    def test_newline_as_end_of_text(self, oracle, batch: int | None) -> None:  # type: ignore[no-untyped-def]
        model, inputs, expected = oracle
        result = probe(model, self.rows(inputs, eos=198), batch_cut=batch)
        wanted = expected["newline_as_eos"]
        np.testing.assert_allclose(result.el, wanted[f"el_icu_batch{batch or 1}"]["10"]["per_sequence"], atol=1e-9)
        assert result.forget_loss_mean == pytest.approx(wanted["forget_loss_batch1"], abs=1e-5)

    def test_padded_rows_as_the_authors_measure_them(self, oracle) -> None:  # type: ignore[no-untyped-def]
        model, inputs, expected = oracle
        padded, wanted = inputs["padded"], expected["padded"]
        mask = np.asarray(padded["target_mask"], dtype=bool)
        rows = rows_of(np.asarray(padded["target_ids"]), Columns(), eos=1999, pad=1999, mask=mask)
        result = probe(model, replace(rows, positions="padded"), use_mask=False)
        np.testing.assert_allclose(result.ma, wanted["ma_per_sequence"], atol=1e-6)
        np.testing.assert_allclose(result.el, wanted["el10_icu"]["per_sequence"], atol=1e-9)
        tokens = mask[:, 1:].sum(1)
        weighted = float((result.forget_loss * tokens).sum() / tokens.sum())
        assert weighted == pytest.approx(wanted["forget_loss"], abs=1e-5)
