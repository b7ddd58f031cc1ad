"""What is computed of a chunk of tokens from its scores over the vocabulary: the terms, their values and gradients.

`vocabulary_loss.py` goes through the chunks. A term that needs a distribution beside the model's own has a block of
its own for it. Values and gradients are of float32 scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from icu_ray.models.hidden import linear_into

if TYPE_CHECKING:
    from icu_ray.methods.objective import Side
    from icu_ray.models.reference_batch import ReferenceBatch

REFERENCE_EPSILON = 1e-12
"""What the authors add to q before its logarithm."""


@dataclass(frozen=True)
class NllTerm:
    """factor * sum_t weights[t] * -log q_t(labels[t]); labels and weights are (T,), weights float32.

    powers (a, b): each weight is multiplied by q^a (1 - q)^b of the label, without a gradient.
    """

    factor: float
    labels: Tensor
    weights: Tensor
    powers: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class KlTerm:
    """factor * sum_t weights[t] * D(p_t, q_t), p being the original model at flat positions `where` (T,) of a
    batch.

    form "kl": D = sum p (log p - log q). form "reference_ce": D = -sum p log(q + 1e-12), the authors'
    quantity. form "reverse": D = sum q (log q - log p).
    """

    factor: float
    weights: Tensor
    reference: ReferenceBatch
    where: Tensor
    form: str = "kl"


@dataclass(frozen=True)
class SoftenedTerm:
    """factor * sum_t weights[t] * -sum_v p_t(v) log q_t(v), p being the original model's distribution with the score of
    labels[t] (T,) lowered by `strength`; where: as of KlTerm, of the targets."""

    factor: float
    labels: Tensor
    weights: Tensor
    reference: ReferenceBatch
    where: Tensor
    strength: float
    side: Side = "target"


@dataclass(frozen=True)
class OthersTerm:
    """factor * sum_t weights[t] * -sum_v p_t(v) log q_t(v), p being q without labels[t], without a gradient."""

    factor: float
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class GapTerm:
    """factor * sum_t weights[t] * (largest score - mean score)^2."""

    factor: float
    weights: Tensor


@dataclass(frozen=True)
class LogitRatioTerm:
    """factor * sum_t weights[t] * mean over the vocabulary of softplus(beta * (score - original model's score))."""

    factor: float
    weights: Tensor
    reference: ReferenceBatch
    where: Tensor
    beta: float
    side: Side = "target"


VocabularyTerm = NllTerm | KlTerm | SoftenedTerm | OthersTerm | GapTerm | LogitRatioTerm
_WITH_BLOCK = (KlTerm, SoftenedTerm, OthersTerm, LogitRatioTerm)


def blocks_of(terms: Sequence[VocabularyTerm]) -> int:
    """How many blocks of scores they need beside the scores and the model's distribution."""
    return sum(isinstance(term, _WITH_BLOCK) for term in terms)


def score(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    terms: Sequence[VocabularyTerm],
    part: slice,
    blocks: Tensor,
    with_gradient: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Values of the terms on one chunk and, if asked, d loss / d scores (C, V), which lies in `blocks`.

    A row's log normaliser is taken from its largest probability: 1 / q_max = sum exp(score - score_max).
    """
    scores, q, *room = blocks[:, : len(hidden)].unbind()
    linear_into(scores, hidden, weight, bias)
    top = scores.amax(-1)
    # What is compared with needs the scores and a free block; both end when q takes that block.
    waiting = [term for term in terms if isinstance(term, _WITH_BLOCK)]
    compared = [_compare(term, scores, q, block, part) for term, block in zip(waiting, room, strict=False)]
    torch.softmax(scores, -1, out=q)
    log_norm = -q.amax(-1).log()
    values = []
    slope = torch.zeros_like(log_norm)
    pulls: list[tuple[Tensor, Tensor]] = []
    hits: list[tuple[Tensor, Tensor]] = []
    gaps: list[tuple[Tensor, Tensor]] = []
    for term in terms:
        weights = term.weights[part]
        scale = term.factor * weights
        if isinstance(term, NllTerm):
            # Weightless tokens may be infinitely unlikely; they must not turn the sum into NaN.
            labels = labels_of(term.labels, part)
            nll = log_norm + (top - scores.gather(1, labels)[:, 0])
            nll = torch.where(weights != 0, nll, 0.0)
            if any(term.powers):
                own = _own_weight(nll, term.powers)
                weights, scale = weights * own, scale * own
            values.append((weights * nll).sum())
            slope += scale
            hits.append((labels, scale))
            continue
        if isinstance(term, GapTerm):
            largest = scores.argmax(-1, keepdim=True)
            apart = top - scores.mean(-1)
            values.append((weights * apart.square()).sum())
            gaps.append((largest, 2.0 * scale * apart))
            continue
        p, value = compared.pop(0)
        if isinstance(term, LogitRatioTerm):
            values.append((weights * value).sum())
            pulls.append((-term.beta / scores.shape[-1] * scale, p))
            continue
        if isinstance(term, KlTerm) and term.form == "reverse":
            # Normalised before the sum: two models near each other differ by less than the scores' rounding.
            apart = torch.linalg.vecdot(q, p.sub_((top + log_norm)[:, None]))
            values.append((weights * apart).sum())
            if with_gradient:
                pulls.append((-scale, p.sub_(apart[:, None]).mul_(q)))
            continue
        if not isinstance(term, KlTerm) or term.form == "kl":
            values.append((weights * (value + (top + log_norm))).sum())
            slope += scale
        else:
            shifted = q + REFERENCE_EPSILON
            values.append(-(weights * torch.linalg.vecdot(p, shifted.log())).sum())
            if with_gradient:
                p.mul_(q).div_(shifted)
                slope += scale * p.sum(-1)
        pulls.append((scale, p))
    if not with_gradient:
        return values, None
    q *= slope[:, None]
    for scale, p in pulls:
        q.addcmul_(p, scale[:, None], value=-1.0)
    for labels, scale in hits:
        q.scatter_add_(1, labels, -scale[:, None])
    for largest, scale in gaps:
        q.sub_((scale / q.shape[-1])[:, None]).scatter_add_(1, largest, scale[:, None])
    return values, q


def labels_of(labels: Tensor, part: slice) -> Tensor:
    """(C, 1), any word where nothing is scored."""
    return labels[part].clamp(min=0)[:, None]


def _own_weight(nll: Tensor, powers: tuple[float, float]) -> Tensor:
    """p^a (1 - p)^b of the probabilities p = exp(-nll); 1 - p to full precision where p is nearly 1."""
    nll = nll.clamp(min=0)
    return (-powers[0] * nll).exp() * torch.expm1(-nll).neg().pow(powers[1])


def _compare(
    term: KlTerm | SoftenedTerm | OthersTerm | LogitRatioTerm, scores: Tensor, free: Tensor, block: Tensor, part: slice
) -> tuple[Tensor, Tensor]:
    """p (C, V) in `block` and the term's value (C,), to which q's log normaliser must be added.

    Of LogitRatioTerm: the slopes of its softplus, and its whole value. Of the authors' cross-entropy: 0. Of the reverse
    divergence: the scores less log p, and 0.
    """
    if isinstance(term, OthersTerm):
        free.copy_(scores).scatter_(1, labels_of(term.labels, part), -torch.inf)
        p = torch.softmax(free, -1, out=block)
        return p, -torch.linalg.vecdot(p, scores)
    if isinstance(term, KlTerm):
        theirs = term.reference.scores_into(free, term.where[part])
        if term.form == "reverse":
            return torch.sub(scores, theirs.log_softmax(-1), out=block), scores.new_zeros(())
        p = torch.softmax(theirs, -1, out=block)
        if term.form != "kl":
            return p, scores.new_zeros(())
        log_normaliser = theirs.amax(-1) - p.amax(-1).log()
        return p, theirs.sub_(scores).mul_(p).sum(-1) - log_normaliser
    theirs = term.reference.scores_into(free, term.where[part], term.side)
    if isinstance(term, SoftenedTerm):
        labels = labels_of(term.labels, part)
        theirs.scatter_add_(1, labels, theirs.new_full(labels.shape, -term.strength))
        p = torch.softmax(theirs, -1, out=block)
        return p, -torch.linalg.vecdot(p, scores)
    apart = torch.sub(scores, theirs, out=block).mul_(term.beta)
    value = functional.softplus(apart).mean(-1)
    return apart.sigmoid_(), value
