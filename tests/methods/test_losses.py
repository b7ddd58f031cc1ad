"""Every method's value and gradient against plain code with full logits, on three families of tiny models.

Needs: nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from icu_ray import methods
from icu_ray.config import LossConfig
from icu_ray.data.examples import TokenRows
from icu_ray.methods.base import Batch
from icu_ray.methods.module import UnlearningModule, inner_state
from icu_ray.methods.vocabulary_loss import Segment, token_nll, vocabulary_loss
from icu_ray.methods.vocabulary_terms import NllTerm
from icu_ray.methods.weights import batch_weights
from icu_ray.models.reference import Reference, build_reference
from tests.support.tiny_models import COLUMNS, FAMILIES, tiny_model, tiny_rows

ACTIVE = np.array([True, False, True, True, False])
STARTS = {"all": 0, "prefix_suffix": COLUMNS.prefix_start, "suffix": COLUMNS.suffix_start}


@pytest.fixture(scope="module", params=FAMILIES)
def case(
    request: pytest.FixtureRequest,
) -> tuple[PreTrainedModel, PreTrainedModel, TokenRows, TokenRows, Reference]:
    """The original model, one that has moved away from it, targets, pairs and the original's reference."""
    original = tiny_model(request.param)
    moved = tiny_model(request.param)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    targets, pairs = tiny_rows(5, 1), tiny_rows(5, 2)
    return original, moved, targets, pairs, build_reference(original, pairs, targets=targets)


def make_batch(
    targets: TokenRows, pairs: TokenRows, reference: Reference, loss: LossConfig, active: np.ndarray = ACTIVE
) -> Batch:
    weights = batch_weights(targets.labels, pairs.labels, active, COLUMNS, loss, pairs.mask)
    return Batch.gather(targets, pairs, range(5), weights, reference.batch(range(5)))


class Plain:
    """The definitions with logits of whole rows, in loops over rows and positions, in float64."""

    def __init__(
        self,
        original: PreTrainedModel,
        model: PreTrainedModel,
        targets: TokenRows,
        pairs: TokenRows,
        loss: LossConfig,
    ) -> None:
        self.loss = loss
        self.rows = [int(i) for i in np.flatnonzero(ACTIVE)]
        self.targets, self.pairs = targets, pairs
        self.log_q = {"t": self.log_probs(model, targets), "p": self.log_probs(model, pairs)}
        with torch.no_grad():
            self.log_p = {"t": self.log_probs(original, targets), "p": self.log_probs(original, pairs)}

    @staticmethod
    def log_probs(model: PreTrainedModel, rows: TokenRows) -> Tensor:
        """Row by row without its pads; at pads nothing, which no definition asks for."""
        found = torch.zeros((*rows.input_ids.shape, model.config.vocab_size), dtype=torch.float64)
        for row, real in enumerate(rows.mask):
            ids = torch.tensor(rows.input_ids[row][real])[None]
            found[row, torch.tensor(real)] = model(input_ids=ids).logits[0].double().log_softmax(-1)
        return found

    def scored(self, rows: TokenRows, row: int) -> list[int]:
        first = max(1, STARTS[self.loss.span])
        return [t for t in range(first, COLUMNS.length) if rows.labels[row, t] >= 0]

    def reduce(self, values: dict[int, list[Tensor]]) -> Tensor:
        if self.loss.reduction == "token_mean":
            return torch.stack([v for row in values.values() for v in row]).mean()
        per_row = [torch.stack(v) for v in values.values()]
        if self.loss.reduction == "seq_mean":
            return torch.stack([row.mean() for row in per_row]).mean()
        return torch.stack([row.sum() for row in per_row]).mean()

    def nll(self, inputs: str, labels: TokenRows) -> Tensor:
        return self.reduce(
            {r: [-self.log_q[inputs][r, t - 1, labels.labels[r, t]] for t in self.scored(labels, r)] for r in self.rows}
        )

    def kl(self) -> Tensor:
        values = {}
        for r in self.rows:
            everywhere = self.loss.kl_positions == "all"
            places = np.flatnonzero(self.pairs.mask[r]) if everywhere else [t - 1 for t in self.scored(self.pairs, r)]
            p, log_q = self.log_p["p"].exp(), self.log_q["p"]
            if self.loss.kl == "kl":
                values[r] = [(p[r, t] * (self.log_p["p"][r, t] - log_q[r, t])).sum() for t in places]
            elif self.loss.kl == "reverse":
                values[r] = [(log_q[r, t].exp() * (log_q[r, t] - self.log_p["p"][r, t])).sum() for t in places]
            else:
                values[r] = [-(p[r, t] * (log_q[r, t].exp() + 1e-12).log()).sum() for t in places]
        return self.reduce(values)

    def log_ratio(self, side: str, rows: TokenRows) -> Tensor:
        def logp(table: dict[str, Tensor], r: int) -> Tensor:
            return sum((table[side][r, t - 1, rows.labels[r, t]] for t in self.scored(rows, r)), torch.zeros(()))

        return torch.stack([logp(self.log_q, r) - logp(self.log_p, r) for r in self.rows])

    def total(self, name: str, alpha: float, beta: float) -> Tensor:
        if name == "dpo":
            margin = self.log_ratio("p", self.pairs) - self.log_ratio("t", self.targets)
            return -functional.logsigmoid(0.1 * margin).mean()
        if name == "npo":
            return -20.0 * functional.logsigmoid(-0.1 * self.log_ratio("t", self.targets)).mean()
        forget = self.nll("t", self.targets)
        if name == "kumpr":
            return -forget
        if name == "kl":
            return -forget + beta * self.kl()
        if name == "icu":
            return -forget + alpha * self.nll("p", self.pairs) + beta * self.kl()
        mismatch = self.nll("t", self.pairs)
        if name == "llmu":
            return -forget + alpha * mismatch + beta * self.kl()
        assert name == "po"
        return mismatch + alpha * self.nll("p", self.pairs)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def assert_same_gradients(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    scale = max(float(g.abs().max()) for g in other.values())
    for name, gradient in other.items():
        assert float((one[name] - gradient).abs().max()) <= tolerance * scale, name


def check(case: tuple, name: str, loss: LossConfig, alpha: float = 0.7, beta: float = 1.3) -> None:
    original, model, targets, pairs, reference = case
    model.zero_grad()
    terms = methods.get(name, alpha=alpha, beta=beta, loss=loss).loss(
        model, make_batch(targets, pairs, reference, loss)
    )
    terms.total.backward()
    ours = gradients(model)
    model.zero_grad()
    expected = Plain(original, model, targets, pairs, loss).total(name, alpha, beta)
    expected.backward()
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    assert_same_gradients(ours, gradients(model))


@pytest.mark.parametrize("name", ["icu", "kumpr", "kl", "llmu", "po", "dpo", "npo"])
def test_methods_equal_plain_code(case: tuple, name: str) -> None:
    check(case, name, LossConfig(chunk=7))


@pytest.mark.parametrize(("span", "reduction"), list(itertools.product(STARTS, ["token_mean", "seq_mean", "sum"])))
def test_spans_and_reductions_equal_plain_code(case: tuple, span: str, reduction: str) -> None:
    check(case, "icu", LossConfig(span=span, reduction=reduction, kl_positions="span", chunk=5))


@pytest.mark.parametrize("form", ["kl", "reference_ce", "reverse"])
@pytest.mark.parametrize("positions", ["all", "span"])
def test_forms_of_the_divergence(case: tuple, form: str, positions: str) -> None:
    check(case, "kl", LossConfig(kl=form, kl_positions=positions, span="suffix", chunk=4))


@pytest.mark.parametrize("cache", ["probs", "recompute"])
def test_caches_of_the_reference_agree(case: tuple, cache: str) -> None:
    original, model, targets, pairs, reference = case
    loss = LossConfig(chunk=6)
    other = build_reference(original, pairs, cache)
    method = methods.get("icu", loss=loss)
    totals = [method.loss(model, make_batch(targets, pairs, ref, loss)).total.item() for ref in (reference, other)]
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)


def test_one_forward_or_two_and_any_chunk_give_the_same(case: tuple) -> None:
    _, model, targets, pairs, reference = case
    results = []
    for chunk, joint in ((1, True), (9, False), (10_000, True)):
        loss = LossConfig(chunk=chunk, joint_forward=joint)
        model.zero_grad()
        terms = methods.get("icu", loss=loss).loss(model, make_batch(targets, pairs, reference, loss))
        terms.total.backward()
        results.append((terms.total.item(), gradients(model)))
    for total, found in results[1:]:
        assert total == pytest.approx(results[0][0], abs=1e-5)
        assert_same_gradients(found, results[0][1])


@pytest.mark.parametrize("name", ["icu", "po", "dpo"])
def test_micro_batches_add_up(case: tuple, name: str) -> None:
    _, model, targets, pairs, reference = case
    loss = LossConfig()
    method = methods.get(name, loss=loss)
    weights = batch_weights(targets.labels, pairs.labels, ACTIVE, COLUMNS, loss, pairs.mask)
    model.zero_grad()
    whole = method.loss(model, make_batch(targets, pairs, reference, loss))
    whole.total.backward()
    expected = gradients(model)
    model.zero_grad()
    parts: dict[str, float] = {}
    # The second micro batch holds no active row, as a rank's share may.
    for rows in ([0, 2], [1, 4], [3]):
        batch = Batch.gather(targets, pairs, rows, weights.rows(rows), reference.batch(rows))
        terms = method.loss(model, batch)
        terms.total.backward()
        for key, value in terms.parts.items():
            parts[key] = parts.get(key, 0.0) + value.item()
    assert parts == pytest.approx({k: v.item() for k, v in whole.parts.items()}, abs=1e-5)
    assert_same_gradients(gradients(model), expected)


@pytest.mark.parametrize("name", ["icu", "npo"])
def test_a_batch_without_active_rows_has_zero_gradients_everywhere(case: tuple, name: str) -> None:
    _, model, targets, pairs, reference = case
    model.zero_grad()
    batch = make_batch(targets, pairs, reference, LossConfig(), np.zeros(5, dtype=bool))
    terms = methods.get(name).loss(model, batch)
    terms.total.backward()
    assert terms.total.item() == 0.0
    for parameter_name, parameter in model.named_parameters():
        # Tensors that no forward reads have none; all others have exact zeros, so that Adam still moves them.
        assert parameter.grad is not None and not parameter.grad.any(), parameter_name


def test_at_the_original_weights_the_divergence_is_zero(case: tuple) -> None:
    original, _, targets, pairs, reference = case
    terms = methods.get("kl").loss(original, make_batch(targets, pairs, reference, LossConfig()))
    assert abs(terms.parts["kl"].item()) < 1e-6
    assert set(terms.parts) == {"forget", "kl"}


def test_the_module_is_transparent(case: tuple) -> None:
    _, model, targets, pairs, reference = case
    module = UnlearningModule(model, methods.get("icu"))
    assert inner_state(module.state_dict()).keys() == model.state_dict().keys()
    batch = make_batch(targets, pairs, reference, LossConfig())
    assert module(batch).total.item() == pytest.approx(methods.get("icu").loss(model, batch).total.item())


def test_no_gradient_is_computed_when_none_is_wanted(case: tuple) -> None:
    _, model, targets, pairs, reference = case
    batch = make_batch(targets, pairs, reference, LossConfig())
    with torch.no_grad():
        quiet = methods.get("icu").loss(model, batch)
    assert not quiet.total.requires_grad
    assert quiet.total.item() == pytest.approx(methods.get("icu").loss(model, batch).total.item())


def test_a_broken_model_gives_nan_and_no_crash() -> None:
    model = tiny_model("gpt_neo")
    targets, pairs = tiny_rows(5, 1), tiny_rows(5, 2)
    reference = build_reference(model, pairs)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    terms = methods.get("icu").loss(model, make_batch(targets, pairs, reference, LossConfig()))
    terms.total.backward()
    assert terms.total.isnan()


def test_bfloat16_stays_near_float32() -> None:
    model = tiny_model("llama")
    targets, pairs = tiny_rows(5, 1), tiny_rows(5, 2)
    totals = []
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype)
        reference = build_reference(model, pairs)
        assert reference.hidden is not None and reference.hidden.dtype == dtype
        batch = make_batch(targets, pairs, reference, LossConfig())
        terms = methods.get("icu").loss(model, batch)
        terms.total.backward()
        assert terms.total.dtype == torch.float32
        totals.append(terms.total.item())
    assert totals[1] == pytest.approx(totals[0], rel=0.05, abs=0.05)


def kernel_inputs(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(11, 6, generator=generator, requires_grad=True)
    weight = torch.randn(13, 6, generator=generator, requires_grad=True)
    offset = torch.randn(13, generator=generator, requires_grad=True) if bias else None
    labels = torch.randint(0, 13, (11,), generator=generator)
    return hidden, weight, offset, labels, torch.rand(11, generator=generator)


@pytest.mark.parametrize("bias", [False, True])
def test_kernels_equal_plain_cross_entropy(bias: bool) -> None:
    hidden, weight, offset, labels, scale = kernel_inputs(bias)
    inputs = [t for t in (hidden, weight, offset) if t is not None]
    plain = (
        2.5
        * (functional.cross_entropy(functional.linear(hidden, weight, offset), labels, reduction="none") * scale).sum()
    )
    expected = torch.autograd.grad(plain, inputs)
    fused, values = vocabulary_loss(hidden, weight, offset, [Segment(11, [NllTerm(2.5, labels, scale)])], chunk=4)
    recomputed = 2.5 * (token_nll(hidden, weight, offset, labels, 4) * scale).sum()
    assert values.tolist() == pytest.approx([plain.item() / 2.5])
    for ours in (fused, recomputed):
        assert ours.item() == pytest.approx(plain.item())
        # A factor on the total must reach every gradient, as accumulation and world size put one there.
        for found, wanted in zip(torch.autograd.grad(3.0 * ours, inputs), expected, strict=True):
            torch.testing.assert_close(found, 3.0 * wanted)


def test_weightless_tokens_may_be_impossible() -> None:
    hidden, weight, _, labels, scale = kernel_inputs(False)
    huge = hidden.detach() * 1e4
    scale = scale * (torch.arange(11) == 5)
    total, _ = vocabulary_loss(huge, weight, None, [Segment(11, [NllTerm(1.0, labels, scale)])], chunk=3)
    assert total.isfinite()


def test_a_second_backward_is_refused() -> None:
    hidden, weight, _, labels, scale = kernel_inputs(False)
    total, _ = vocabulary_loss(hidden, weight, None, [Segment(11, [NllTerm(1.0, labels, scale)])], chunk=3)
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()
