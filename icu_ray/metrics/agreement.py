"""Agreement between raters and correlation between two measures, with confidence intervals.

krippendorff_alpha([{"a": 3, "b": 4}, {"a": 7, "b": 7}], "ordinal")     # one mapping a rated item
pearson(human, judge), spearman(human, judge)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Correlation:
    """A coefficient over n pairs with the limits of its 95 % interval; None where it is not defined.

    r is None without spread in either measure or with fewer than 2 pairs, the limits with fewer than 4 pairs.
    """

    r: float | None
    low: float | None
    high: float | None
    n: int


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's r; interval by Fisher's z, standard error 1 / sqrt(n - 3), pairs taken as independent."""
    return _with_interval(_product_moment(np.asarray(x, float), np.asarray(y, float)), len(x), 1.0)


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Spearman's rho (ties get their mean rank); interval by Fisher's z with the variance of Bonett and Wright 2000.

    That standard error is sqrt((1 + rho^2 / 2) / (n - 3)).
    """
    rho = _product_moment(mean_ranks(x), mean_ranks(y))
    return _with_interval(rho, len(x), 1.0 if rho is None else 1.0 + rho * rho / 2)


def mean_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Ranks 1..n of (n,) values; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _product_moment(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    if x.shape != y.shape:
        raise ValueError(f"pairs are needed: {len(x)} values against {len(y)}")
    # The spread is asked of the values, since a mean's rounding leaves a tiny one where there is none.
    if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
        return None
    a, b = x - x.mean(), y - y.mean()
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def _with_interval(r: float | None, n: int, variance: float) -> Correlation:
    if r is None or n < 4:
        return Correlation(r, None, None, n)
    if abs(r) == 1.0:
        return Correlation(r, r, r, n)
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(variance / (n - 3))
    return Correlation(r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach), n)


def krippendorff_alpha(items: Sequence[Mapping[str, int]], level: Literal["ordinal", "interval"]) -> float | None:
    """Krippendorff's alpha of whole-number ratings, one {rater: rating} an item; raters may miss items.

    1 - observed / expected disagreement, from the coincidences of values within items (Krippendorff 2011). None when
    no item has two ratings or all ratings are one value, where agreement cannot be told from chance.
    """
    rated = [list(item.values()) for item in items if len(item) > 1]
    values = sorted({value for ratings in rated for value in ratings})
    if len(values) < 2:
        return None
    place = {value: number for number, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for ratings in rated:
        counts = np.zeros(len(values))
        for value in ratings:
            counts[place[value]] += 1
        # Every ordered pair of two different ratings of the item, weighted so that an item counts as its ratings do.
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(ratings) - 1)
    totals = coincidences.sum(1)
    scale = np.asarray(values, float)
    if level == "ordinal":
        # A value's position is the middle of its ranks, so a distance counts the ratings that lie between.
        scale = np.cumsum(totals) - totals / 2
    distance = (scale[:, None] - scale[None, :]) ** 2
    observed = float((coincidences * distance).sum())
    expected = float((np.outer(totals, totals) * distance).sum()) / (float(totals.sum()) - 1)
    return 1.0 - observed / expected
