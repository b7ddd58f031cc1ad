"""Measures of a known answer that one teacher-forced forward gives: probability, truth ratio, memorisation.

    scores = answer_scores(model, rows)                        # metrics/answer_scores.py; one a row
    losses = avg_losses(scores)                                # (N,)
    mean_of(probabilities(losses))                             # Aggregate(value, counted, rows)
    ratios = truth_ratios(paraphrased_losses, wrong_losses)    # (N,) and (N, J); what forget_quality compares
    mean_of(truth_ratio_scores(paraphrased_losses, wrong_losses, "forget"))

A value that cannot be measured is NaN. `mean_of` leaves it out and says how many rows it counts. The loss of a row is
the mean over its scored tokens, end of sequence included. Where implementations differ: conventions.py.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icu_ray.data.examples import IGNORED_LABEL
from icu_ray.metrics.conventions import DEFINED, Conventions, Tail

Floats: TypeAlias = NDArray[np.float64]
TruthRatioKind: TypeAlias = Literal["forget", "retain", "prob_mean"]
EPSILON = 1e-10
"""What the field adds to a denominator that may be 0."""


@dataclass(frozen=True)
class AnswerRow:
    """One row without pads: token ids, and as many labels, of which those that are IGNORED_LABEL are not scored.

    ValueError where the numbers differ or the first label is scored, before which nothing stands.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.ids or len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.labels)} labels for {len(self.ids)} tokens: a row has as many, and at least 1")
        if self.labels[0] != IGNORED_LABEL:
            raise ValueError("the first token of a row cannot be scored: nothing stands before it")

    @classmethod
    def after(cls, ids: Sequence[int], given: int) -> AnswerRow:
        """The row of these tokens, of which the first `given` (at least 1) are a prompt and the others are scored."""
        known = tuple(int(token) for token in ids)
        given = min(given, len(known))
        return cls(known, (IGNORED_LABEL,) * given + known[given:])

    @property
    def scored(self) -> tuple[int, ...]:
        """Positions of the scored tokens, ascending."""
        return tuple(place for place, label in enumerate(self.labels) if label != IGNORED_LABEL)


@dataclass(frozen=True)
class AnswerScores:
    """What a teacher-forced forward says of the n scored tokens of a row, in their order.

    tokens: (n,) int64, the labels. log_probs: (n,) natural logarithm of the probability of each. matches: (n,) bool,
    whether the most probable token is the label. means, variances: (n,) of log p(v) over the vocabulary, v drawn from
    p itself. NaN in log_probs where the model's scores are not finite.
    """

    tokens: NDArray[np.int64]
    log_probs: Floats
    matches: NDArray[np.bool_]
    means: Floats
    variances: Floats

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def broken(self) -> bool:
        """Whether scores of the model are not finite, so that nothing is measured."""
        return bool(np.isnan(self.log_probs).any())

    def without_tail(self, tail: Tail, eos_id: int | None) -> AnswerScores:
        """The same of the tokens that count where an answer's end does not."""
        kept = slice(count_without_tail(self.tokens, tail, eos_id))
        return AnswerScores(
            self.tokens[kept], self.log_probs[kept], self.matches[kept], self.means[kept], self.variances[kept]
        )

    @property
    def copied(self) -> tuple[int, ...]:
        """The labels before the first that the model does not find most probable.

        Where the scored tokens follow a prompt in one piece, greedy generation after it begins with these.
        """
        wrong = np.flatnonzero(~self.matches)
        return tuple(self.tokens[: wrong[0] if len(wrong) else len(self)].tolist())


def count_without_tail(tokens: Sequence[int] | NDArray[np.int64], tail: Tail, eos_id: int | None) -> int:
    """How many of the labels count; tail: conventions.py."""
    n = len(tokens)
    return n - int(n > 0 and (tail == "last_label" or int(tokens[-1]) == eos_id))


@dataclass(frozen=True)
class Aggregate:
    """A mean over the rows that could be measured, `counted` of all `rows`; value is None where there is none."""

    value: float | None
    counted: int
    rows: int


def mean_of(values: Iterable[float | None] | Floats) -> Aggregate:
    """Mean of the values that are there; None and NaN are not."""
    found = as_floats(values)
    known = found[~np.isnan(found)]
    return Aggregate(float(known.mean()) if len(known) else None, len(known), len(found))


def as_floats(values: Iterable[float | None] | Floats) -> Floats:
    """(N,) float64 of values, of which None becomes NaN."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    return np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)


def avg_losses(scores: Sequence[AnswerScores]) -> Floats:
    """(N,) nats a token: mean negative log-likelihood of each row's scored tokens; NaN without any."""
    return np.asarray([-each.log_probs.mean() if len(each) else np.nan for each in scores], dtype=np.float64)


def probabilities(losses: ArrayLike) -> Floats:
    """exp(-loss), of any shape: the geometric mean of a row's token probabilities, 0..1."""
    found: Floats = np.exp(-np.asarray(losses, dtype=np.float64))
    return found


def normalised_probabilities(losses: ArrayLike, wrong_losses: Sequence[ArrayLike]) -> Floats:
    """(N,) share of the answer in the probabilities of it and of its row's wrong answers.

    losses: (N,) of the answers. wrong_losses: N times (J,), of which J may differ; NaN without a wrong answer.
    """
    right, wrong = probabilities(losses), [probabilities(each) for each in wrong_losses]
    sums = np.asarray([each.sum() if each.size else np.nan for each in wrong], dtype=np.float64)
    return right / (right + sums + EPSILON)


def wrong_probabilities(wrong_losses: Sequence[ArrayLike], conventions: Conventions = DEFINED) -> Floats:
    """(N,) probability of each row's wrong answers together, N times (J,); NaN without any."""
    rows = [np.asarray(each, dtype=np.float64) for each in wrong_losses]
    if conventions.wrong_mean == "arithmetic":
        means = [probabilities(each).mean() if each.size else np.nan for each in rows]
        return np.asarray(means, dtype=np.float64)
    return probabilities([each.mean() if each.size else np.nan for each in rows])


def truth_ratios(
    right_losses: ArrayLike, wrong_losses: Sequence[ArrayLike], conventions: Conventions = DEFINED
) -> Floats:
    """(N,) R = P_wrong / P_right, at least 0: 1 where the model cannot tell right from wrong, 0 where it knows.

    right_losses: (N,) of the paraphrased answers, or of the answers where a set has no paraphrases. wrong_losses: N
    times (J,).
    """
    found: Floats = wrong_probabilities(wrong_losses, conventions) / (probabilities(right_losses) + EPSILON)
    return found


def truth_ratio_scores(
    right_losses: ArrayLike,
    wrong_losses: Sequence[ArrayLike],
    kind: TruthRatioKind,
    conventions: Conventions = DEFINED,
) -> Floats:
    """(N,) in 0..1, whose mean is the truth ratio of a set.

    forget: the smaller of R and 1/R, near 1 where the model cannot tell right from wrong. retain (also real authors and
    world facts): 1 - R, at least 0, high where it knows. prob_mean: P_right / (P_right + P_wrong), high where it knows.
    """
    if kind == "prob_mean":
        right, wrong = probabilities(right_losses), wrong_probabilities(wrong_losses, conventions)
        return right / (right + wrong + EPSILON)
    ratios = truth_ratios(right_losses, wrong_losses, conventions)
    if kind == "forget":
        return np.minimum(ratios, 1 / (ratios + EPSILON))
    return np.maximum(0.0, 1 - ratios)


def prob_mean_scores(right_probabilities: ArrayLike, ratios: ArrayLike) -> Floats:
    """(N,) the truth ratio prob_mean of rows whose P_right (N,) and R (N,) are known; see `truth_ratio_scores`."""
    right = np.asarray(right_probabilities, dtype=np.float64)
    wrong = np.asarray(ratios, dtype=np.float64) * (right + EPSILON)
    found: Floats = right / (right + wrong + EPSILON)
    return found


def exact_memorization(
    scores: Sequence[AnswerScores], eos_id: int | None, conventions: Conventions = DEFINED
) -> Floats:
    """(N,) share of the tokens that the model finds most probable, 0..1; NaN without tokens.

    eos_id: the token that ends a sequence, which does not count at an answer's end.
    """
    found = []
    for each in scores:
        counted = each.without_tail(conventions.tail, eos_id)
        found.append(np.nan if not len(counted) or counted.broken else counted.matches.mean())
    return np.asarray(found, dtype=np.float64)


def extraction_strength(
    scores: Sequence[AnswerScores], eos_id: int | None, conventions: Conventions = DEFINED
) -> Floats:
    """(N,) 1 - k/m, 0..1: from the k-th of m tokens on, the model finds every one most probable."""
    found = []
    for each in scores:
        counted = each.without_tail(conventions.tail, eos_id)
        m = len(counted)
        if m == 0:
            found.append(0.0 if conventions.empty == "zero" else np.nan)
            continue
        wrong = np.flatnonzero(~counted.matches)
        k = int(wrong[-1]) + 1 if len(wrong) else 0
        if conventions.es_floor == "ou":
            k = min(k, m - 1)
        found.append(np.nan if counted.broken else 1 - k / m)
    return np.asarray(found, dtype=np.float64)
