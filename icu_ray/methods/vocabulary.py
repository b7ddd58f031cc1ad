"""Scores over the vocabulary in chunks of tokens: the one place where logits exist.

A step of the plain form holds logits, log-probabilities and their gradients of all tokens: gigabytes at
50,257 words. Here tokens are taken in chunks, and each chunk's gradient is computed while its scores are
there, so that the forward pass leaves only d loss / d hidden and d loss / d output matrix behind, and no
product is computed twice.

    total, values = vocabulary_loss(hidden, weight, bias, segments, chunk)    # any weighted sum of nll and kl
    terms nll = token_nll(hidden, weight, bias, labels, chunk)                      # (T,), for losses that
    are no sum

Scores are float32 whatever the model's precision. Values and gradients equal the plain form's up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from icu_ray.models.reference import ReferenceBatch

REFERENCE_EPSILON = 1e-12
"""What the authors add to q before its logarithm."""


@dataclass(frozen=True)
class NllTerm:
    """factor * sum_t weights[t] * -log q_t(labels[t]); labels and weights are (T,), weights float32."""

    factor: float
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class KlTerm:
    """factor * sum_t weights[t] * D(p_t, q_t), p being the original model at flat positions `where` (T,) of a
    batch.

    form "kl": D = sum p (log p - log q). form "reference_ce": D = -sum p log(q + 1e-12), the authors'
    quantity.
    """

    factor: float
    weights: Tensor
    reference: ReferenceBatch
    where: Tensor
    form: str = "kl"


@dataclass(frozen=True)
class Segment:
    """T successive tokens that are scored by the same terms."""

    length: int
    terms: Sequence[NllTerm | KlTerm]


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, segments: Sequence[Segment], chunk: int
) -> tuple[Tensor, Tensor]:
    """Total of all terms, and the value of each without its factor, in order.

    hidden: (T, H), the segments' tokens one after the other; weight: (V, H); bias: (V,) or None.
    """
    total, values = _VocabularyLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, segments, chunk, torch.is_grad_enabled()
    )
    return total, values


def token_nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
    """(T,) float32 -log q_t(labels[t]) of hidden (T, H); scores are computed again in the backward pass."""
    nll: Tensor = _TokenNll.apply(hidden, weight, bias, labels, chunk)  # type: ignore[no-untyped-call]
    return nll


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        segments: Sequence[Segment],
        chunk: int,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wants = [needed and with_gradient for needed in ctx.needs_input_grad[:3]]
        grad_hidden = torch.zeros_like(hidden) if wants[0] else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants[2] and bias is not None else None
        values: list[Tensor] = []
        total = hidden.new_zeros((), dtype=torch.float32)
        start = 0
        for segment in segments:
            sums = [total.new_zeros(()) for _ in segment.terms]
            for low in range(0, segment.length, chunk):
                part = slice(low, min(low + chunk, segment.length))
                rows = slice(start + part.start, start + part.stop)
                scores = functional.linear(hidden[rows], weight, bias).float()
                for index, value in enumerate(_score(scores, segment.terms, part, any(wants))):
                    sums[index] += value
                if not any(wants):
                    continue
                gradient = scores.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = gradient @ weight
                if grad_weight is not None:
                    _add_product(grad_weight, gradient, hidden[rows])
                if grad_bias is not None:
                    grad_bias += scores.sum(0)
                del scores, gradient
            start += segment.length
            for term, value in zip(segment.terms, sums, strict=True):
                total = total + term.factor * value
            values += sums
        ctx.gradients = (grad_hidden, _like(grad_weight, weight), _like(grad_bias, bias))
        stacked = torch.stack(values) if values else total.new_zeros(0)
        ctx.mark_non_differentiable(stacked)
        return total, stacked

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("backward a second time: this loss keeps its gradients for one backward pass only")
        gradients, ctx.gradients = ctx.gradients, None
        # In place: the output matrix's gradient is the largest tensor of the step.
        return (
            *(None if g is None else g.mul_(upstream[0].to(g.dtype)) for g in gradients),
            None,
            None,
            None,
        )


def _score(scores: Tensor, terms: Sequence[NllTerm | KlTerm], part: slice, with_gradient: bool) -> list[Tensor]:
    """Values of the terms on one chunk; `scores` (C, V) turn in place into d loss / d scores if asked."""
    scores -= scores.amax(-1, keepdim=True)
    kls = [term for term in terms if isinstance(term, KlTerm)]
    # p and the difference of log-scores first: they need `scores` before it becomes probabilities.
    compared = {id(term): _compare(term, scores, part) for term in kls}
    picked = {
        id(term): scores.gather(1, term.labels[part].clamp(min=0)[:, None])[:, 0]
        for term in terms
        if isinstance(term, NllTerm)
    }
    norm = scores.exp_().sum(-1, keepdim=True)
    log_norm = norm.log()[:, 0]
    q = scores.div_(norm)
    values = []
    slope = torch.zeros_like(log_norm)
    pulls: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        weights = term.weights[part]
        scale = term.factor * weights
        if isinstance(term, NllTerm):
            # Weightless tokens may be infinitely unlikely; they must not turn the sum into NaN.
            nll = torch.where(weights != 0, log_norm - picked[id(term)], 0.0)
            values.append((weights * nll).sum())
            slope += scale
            continue
        p, value = compared[id(term)]
        if term.form == "kl":
            values.append((weights * (value + log_norm)).sum())
            slope += scale
        else:
            shifted = q + REFERENCE_EPSILON
            if with_gradient:
                ratio = p * q / shifted
            values.append(-(weights * torch.linalg.vecdot(p, shifted.log_())).sum())
            if with_gradient:
                p = ratio
                slope += scale * p.sum(-1)
        pulls.append((scale, p))
    if with_gradient:
        q *= slope[:, None]
        for scale, p in pulls:
            q -= p.mul_(scale[:, None])
        for term in terms:
            if isinstance(term, NllTerm):
                scale = term.factor * term.weights[part]
                q.scatter_add_(1, term.labels[part].clamp(min=0)[:, None], -scale[:, None])
    return values


def _compare(term: KlTerm, scores: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """p (C, V) and, for "kl", sum p (log p - scores) (C,), to which q's log norm must still be added."""
    where = term.where[part]
    if term.form != "kl":
        return term.reference.probabilities(where), scores.new_zeros(())
    log_p = term.reference.log_probabilities(where)
    difference = log_p - scores
    p = log_p.exp_()
    # p = 0 contributes nothing even where log p is -inf (dense probabilities underflow).
    difference.masked_fill_(p == 0, 0.0)
    return p, torch.linalg.vecdot(p, difference)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """total (V, H) float32 += gradient.T @ hidden."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, hidden)
    else:
        total += gradient.T @ hidden


def _like(gradient: Tensor | None, parameter: Tensor | None) -> Tensor | None:
    return gradient if gradient is None or parameter is None else gradient.to(parameter.dtype)


class _TokenNll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
        nll = hidden.new_zeros(len(hidden), dtype=torch.float32)
        for low in range(0, len(hidden), chunk):
            part = slice(low, low + chunk)
            scores = functional.linear(hidden[part], weight, bias).float()
            nll[part] = functional.cross_entropy(scores, labels[part], reduction="none")
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.chunk = chunk
        return nll

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for low in range(0, len(hidden), ctx.chunk):
            part = slice(low, low + ctx.chunk)
            scores = functional.linear(hidden[part], weight, bias).float()
            scores = torch.softmax(scores, -1)
            scores.scatter_add_(1, labels[part, None], scores.new_full((len(scores), 1), -1.0))
            scores *= upstream[0][part, None]
            gradient = scores.to(hidden.dtype)
            grad_hidden[part] = gradient @ weight
            _add_product(grad_weight, gradient, hidden[part])
            if grad_bias is not None:
                grad_bias += scores.sum(0)
        return grad_hidden, _like(grad_weight, weight), _like(grad_bias, bias), None, None
