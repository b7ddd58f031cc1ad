"""Scores over the vocabulary in chunks of tokens: the one place where logits exist.

A step of the plain form holds logits, log-probabilities and their gradients of all tokens: gigabytes at
50,257 words. Here tokens are taken in chunks, and each chunk's gradient is computed while its scores are
there, so that the forward pass leaves only d loss / d hidden and d loss / d output matrix behind, and no
product is computed twice.

    total, values = vocabulary_loss(hidden, weight, bias, segments, chunk)    # any weighted sum of terms
    nll = token_nll(hidden, weight, bias, labels, chunk)                      # (T,), for losses that are no sum

`vocabulary_terms.py` has the terms.

Scores are float32 whatever the model's precision. Values and gradients equal the plain form's up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from icu_ray.methods.vocabulary_terms import VocabularyTerm, blocks_of, score


@dataclass(frozen=True)
class Segment:
    """T successive tokens that are scored by the same terms."""

    length: int
    terms: Sequence[VocabularyTerm]


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
        blocks = _blocks(hidden, weight, segments, chunk)
        start = 0
        for segment in segments:
            sums = [total.new_zeros(()) for _ in segment.terms]
            for part in _parts(segment.length, chunk):
                rows = slice(start + part.start, start + part.stop)
                parts, slopes = score(hidden[rows], weight, bias, segment.terms, part, blocks, any(wants))
                for index, value in enumerate(parts):
                    sums[index] += value
                if slopes is None:
                    continue
                gradient = slopes.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = gradient @ weight
                if grad_weight is not None:
                    _add_product(grad_weight, gradient, hidden[rows])
                if grad_bias is not None:
                    grad_bias += slopes.sum(0)
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


def _parts(length: int, chunk: int) -> list[slice]:
    """`length` tokens in slices of at most `chunk`, all about equally long."""
    size = -(-length // max(-(-length // chunk), 1))
    return [slice(low, min(low + size, length)) for low in range(0, length, size or 1)]


def _blocks(hidden: Tensor, weight: Tensor, segments: Sequence[Segment], chunk: int) -> Tensor:
    """(2 + terms with a distribution of their own, C, V) float32 that every chunk uses again.

    Fresh blocks of this size come from the system each time, zeroed page by page: a third of a chunk's time on a CPU.
    """
    rows = max((part.stop - part.start for s in segments for part in _parts(s.length, chunk)), default=0)
    beside = max((blocks_of(s.terms) for s in segments), default=0)
    return hidden.new_empty((2 + beside, rows, weight.shape[0]), dtype=torch.float32)


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
