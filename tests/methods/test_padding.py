"""No number of training or measuring depends on how far rows are padded, whatever the model's kind of positions.

Each row is compared with itself alone and unpadded, as transformers scores it.

Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from icu_ray import methods
from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.padding import left_pad
from icu_ray.methods.base import Batch
from icu_ray.methods.weights import batch_weights
from icu_ray.metrics.perplexity import total_nll
from icu_ray.metrics.probe import probe
from icu_ray.models.reference import build_reference
from tests.support.tiny_models import FAMILIES, PAD, VOCABULARY, tiny_model_of

Rows = Sequence[Sequence[int]]


def padded(rows: Rows, width: int) -> TokenRows:
    """As data/tokens.py makes them for a tokenizer without BOS."""
    ids, mask = left_pad(rows, width, PAD)
    labels = np.where(mask, ids, IGNORED_LABEL)
    for number, row in enumerate(rows):
        labels[number, width - len(row)] = IGNORED_LABEL
    # What counts columns counts them from the right end, where the text is.
    columns = Columns(width, width - 6, width - 4)
    prompt = slice(columns.prefix_start, columns.suffix_start)
    names = tuple(str(number) for number in range(len(rows)))
    return TokenRows(names, ids, mask, labels, ids[:, prompt], mask[:, prompt], ("",) * len(rows), columns, PAD, None)


def log_probs(model: PreTrainedModel, row: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([list(row)])).logits[0]
    return logits.double().log_softmax(-1)


def plain_nll(model: PreTrainedModel, row: Sequence[int]) -> torch.Tensor:
    """(tokens - 1,) of the tokens that have one before them."""
    return -log_probs(model, row)[:-1].gather(1, torch.tensor(row[1:])[:, None])[:, 0]


def some_rows(seed: int, shortest: int = 8) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(2, VOCABULARY, size=size).tolist() for size in generator.integers(shortest, 12, size=4)]


def with_prompts(rows: TokenRows) -> TokenRows:
    """The same as rows with lengths of their own, whose batches are as wide as their longest row."""
    return replace(rows, starts=tuple(int(start) + 1 for start in rows.mask.argmax(axis=1)))


@settings(max_examples=24, deadline=None)
@given(st.sampled_from([*FAMILIES, "gpt2", "bloom"]), st.integers(12, 28), st.integers(0, 99), st.booleans())
def test_the_loss_and_its_gradient_are_those_of_the_rows_alone(
    family: str, width: int, seed: int, prompted: bool
) -> None:
    check_loss(tiny_model_of(family, 1), tiny_model_of(family, 2), width, seed, prompted)


def check_loss(original: PreTrainedModel, model: PreTrainedModel, width: int, seed: int, prompted: bool) -> None:
    targets, pairs = some_rows(seed), some_rows(seed + 100)
    loss = LossConfig(chunk=7)
    rows = padded(targets, width), padded(pairs, width)
    weights = batch_weights(rows[0].labels, rows[1].labels, np.ones(4, dtype=bool), rows[0].columns, loss, rows[1].mask)
    reference = build_reference(original, rows[1])
    if prompted:
        rows = with_prompts(rows[0]), with_prompts(rows[1])
    batch = Batch.gather(*rows, range(4), weights, reference.batch(range(4)))
    longest = max(map(len, [*targets, *pairs]))
    assert batch.target_ids.shape[1] == min(longest + 1, width)
    terms = methods.get("icu", alpha=0.7, beta=1.3, loss=loss).loss(model, batch)
    terms.total.backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()

    with torch.no_grad():
        theirs = [log_probs(original, row) for row in pairs]
    divergence = torch.cat(
        [(p.exp() * (p - log_probs(model, row))).sum(-1) for p, row in zip(theirs, pairs, strict=True)]
    )
    forget = torch.cat([plain_nll(model, row) for row in targets]).mean()
    learn = torch.cat([plain_nll(model, row) for row in pairs]).mean()
    total = -forget + 0.7 * learn + 1.3 * divergence.mean()
    total.backward()
    assert terms.total.item() == pytest.approx(total.item(), rel=1e-4, abs=1e-4)
    scale = max(float(parameter.grad.abs().max()) for parameter in model.parameters() if parameter.grad is not None)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert float((ours[name] - parameter.grad).abs().max()) <= 1e-4 * scale, name


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([*FAMILIES, "gpt2", "bloom"]), st.integers(12, 28), st.integers(0, 99))
def test_what_is_measured_is_that_of_the_rows_alone(family: str, width: int, seed: int) -> None:
    check_measured(tiny_model_of(family), width, seed)


def check_measured(model: PreTrainedModel, width: int, seed: int) -> None:
    rows = some_rows(seed)
    found = probe(model, padded(rows, width), ngram=2)
    nll, count = total_nll(model, padded(rows, width))
    assert count == sum(len(row) - 1 for row in rows)
    for number, row in enumerate(rows):
        alone = probe(model, padded([row], len(row)), ngram=2)
        with torch.no_grad():
            losses = plain_nll(model, row)
        assert found.forget_loss[number] == pytest.approx(float(losses.mean()), rel=1e-4)
        assert found.ma[number] == alone.ma[0]
        assert found.el is not None and alone.el is not None
        assert found.el[number] == pytest.approx(alone.el[0], abs=1e-12)
        nll -= float(losses.sum())
    assert nll == pytest.approx(0.0, abs=1e-2)


def test_the_authors_count_pads_as_positions() -> None:
    model, rows = tiny_model_of("gpt2"), padded(some_rows(3), 20)
    theirs = TokenRows(**{**vars(rows), "positions": "padded"})
    ids, mask = torch.from_numpy(rows.input_ids), torch.from_numpy(rows.mask.astype(np.int64))
    with torch.no_grad():
        loss = float(model(input_ids=ids, attention_mask=mask, labels=torch.from_numpy(rows.labels)).loss)
    nll, count = total_nll(model, theirs)
    assert nll / count == pytest.approx(loss, rel=1e-5)
    scored = (rows.labels[:, 1:] != IGNORED_LABEL).sum(axis=1)
    assert np.average(probe(model, theirs).forget_loss, weights=scored) == pytest.approx(loss, rel=1e-5)
    assert total_nll(model, rows)[0] / count != pytest.approx(loss, rel=1e-3)
