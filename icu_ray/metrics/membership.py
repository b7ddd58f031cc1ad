"""Membership inference: scores of rows that are high for what a model has not seen, and what they tell.

    members = min_k_scores(answer_scores(model, forget), eos_id)           # (N,)
    others = min_k_scores(answer_scores(model, holdout), eos_id)
    found = auc(members, others)                 # 1: forget rows are clearly better known, 0.5: no difference
    privleak(found.value, reference_auc)         # 0: like the retrained model, -100: found.value is 1

The loss score is `avg_losses` itself. A row that cannot be measured is NaN; `auc` leaves it out and says how many
count.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from icu_ray.metrics.agreement import mean_ranks
from icu_ray.metrics.answers import EPSILON, AnswerRow, AnswerScores, Floats, as_floats, count_without_tail
from icu_ray.metrics.conventions import DEFINED, Conventions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

K = 0.4
"""The share of a row's tokens that min-k and min-k++ look at, the least probable ones."""
LEAST_VARIANCE = 1e-6
DROPOUT_SEED = 0
"""Of the gradient norm in train mode."""
UNKNOWN_AUC = 0.5
"""The AUC of a reference of which none is known."""


def zlib_scores(losses: ArrayLike, texts: Sequence[str]) -> Floats:
    """(N,) loss over the bytes of the compressed text (zlib, level 6, header included).

    losses: (N,) nats a token. texts: N texts of the scored tokens, without special tokens.
    """
    sizes = [len(zlib.compress(text.encode("utf-8", "surrogatepass"), 6)) for text in texts]
    found: Floats = np.asarray(losses, dtype=np.float64) / np.asarray(sizes, dtype=np.float64)
    return found


def reference_scores(losses: ArrayLike, reference_losses: ArrayLike) -> Floats:
    """(N,) loss of the model minus that of a reference, as a rule the model that was trained without the rows."""
    found: Floats = np.asarray(losses, dtype=np.float64) - np.asarray(reference_losses, dtype=np.float64)
    return found


def min_k_scores(
    scores: Sequence[AnswerScores], eos_id: int | None, k: float = K, conventions: Conventions = DEFINED
) -> Floats:
    """(N,) minus the mean log-probability of the share k of a row's tokens that is least probable, at least one token.

    NaN without tokens. eos_id: as of exact_memorization.
    """
    return _of_least(scores, eos_id, k, conventions, lambda each: each.log_probs)


def min_k_plus_plus_scores(
    scores: Sequence[AnswerScores], eos_id: int | None, k: float = K, conventions: Conventions = DEFINED
) -> Floats:
    """(N,) as min-k, of log-probabilities that are normalised by mean and deviation of log p(v), v drawn from p."""

    def normalised(each: AnswerScores) -> Floats:
        return (each.log_probs - each.means) / np.sqrt(np.maximum(each.variances, LEAST_VARIANCE))

    return _of_least(scores, eos_id, k, conventions, normalised)


def _of_least(
    scores: Sequence[AnswerScores],
    eos_id: int | None,
    k: float,
    conventions: Conventions,
    values_of: Callable[[AnswerScores], Floats],
) -> Floats:
    found = []
    for each in scores:
        values = values_of(each.without_tail(conventions.membership_tail, eos_id))
        if len(values) == 0:
            found.append(0.0 if conventions.empty == "zero" else np.nan)
        else:
            found.append(-np.sort(values)[: max(1, int(k * len(values)))].mean() if not each.broken else np.nan)
    return np.asarray(found, dtype=np.float64)


def gradient_norms(
    model: PreTrainedModel,
    rows: Sequence[AnswerRow],
    eos_id: int | None,
    p: float = 2.0,
    conventions: Conventions = DEFINED,
    pad_id: int | None = None,
) -> Floats:
    """(N,) mean over the model's parameters of the p-norm of the gradient of a row's loss; NaN without tokens.

    One row at a time. The loss is the mean over the tokens that min-k counts. All parameters count, whether they are
    trained or not; one that the loss does not depend on has no gradient and is left out. In train mode dropout is drawn
    from the same seed for every row, so that a row's number does not depend on the others, and the random state is left
    as it was. pad_id: needed with `mask="pad_id"` alone, as of answer_scores.
    """
    import torch

    from icu_ray.metrics.answer_scores import scored_logits

    if conventions.mask == "pad_id" and pad_id is None:
        raise ValueError("mask='pad_id' needs the id of the pad")
    dropout = conventions.gradient_mode == "train"
    devices = [model.device] if model.device.type == "cuda" else []
    parameters = [each for each in model.parameters() if each.is_floating_point()]
    trained = [each.requires_grad for each in parameters]
    was_training = model.training
    model.train(dropout)
    found = []
    try:
        for each in parameters:
            each.requires_grad_(True)
        for row in rows:
            labels = [row.labels[place] for place in row.scored]
            counted = row.scored[: count_without_tail(labels, conventions.membership_tail, eos_id)]
            if not counted:
                found.append(np.nan)
                continue
            read = torch.zeros((1, len(row.ids)), dtype=torch.bool)
            read[0, [place - 1 for place in counted]] = True
            ids = torch.tensor([row.ids], device=model.device)
            mask = torch.ne(ids, pad_id).long() if pad_id is not None and conventions.mask == "pad_id" else None
            wanted = torch.tensor(labels[: len(counted)], device=model.device)
            with torch.enable_grad(), torch.random.fork_rng(devices, enabled=dropout):
                if dropout:
                    torch.manual_seed(DROPOUT_SEED)
                given = {} if mask is None else {"attention_mask": mask}
                logits = scored_logits(model, ids, read.to(model.device), **given)
                loss = torch.nn.functional.cross_entropy(logits.float(), wanted)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            norms = [torch.linalg.vector_norm(each.float(), ord=p) for each in gradients if each is not None]
            found.append(float(torch.stack(norms).mean()))
    finally:
        for each, was in zip(parameters, trained, strict=True):
            each.requires_grad_(was)
        model.train(was_training)
    return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve and the rows it counts; value is None where there are none of either kind."""

    value: float | None
    members: int
    others: int


def auc(members: Sequence[float | None] | Floats, others: Sequence[float | None] | Floats) -> Auc:
    """P(an other row's score > a member's) + 0.5 P(equal), 0..1; None and NaN are left out."""
    inside, outside = (known[~np.isnan(known)] for known in (as_floats(members), as_floats(others)))
    m, n = len(inside), len(outside)
    if m == 0 or n == 0:
        return Auc(None, m, n)
    ranks = mean_ranks(np.concatenate([inside, outside]).tolist())
    return Auc(float((ranks[m:].sum() - n * (n + 1) / 2) / (m * n)), m, n)


def privleak(area: float | None, reference: float | None = None) -> float | None:
    """How far 1 - area is from that of the retrained model, in per cent of the latter; 0 is the best.

    Positive: more forgotten than by the retrained model; negative: less. None where area is. reference: the retrained
    model's area; where none is known, UNKNOWN_AUC. Where it is 1 the value says nothing, for the denominator is 1e-10.
    """
    if area is None:
        return None
    known = 1 - (UNKNOWN_AUC if reference is None else reference)
    return ((1 - area) - known) / (known + EPSILON) * 100


def rel_diff(value: float | None, reference: float | None) -> float | None:
    """Difference of a value from the reference's, in per cent of the latter; None where either is."""
    if value is None or reference is None:
        return None
    return (value - reference) / (reference + EPSILON) * 100
