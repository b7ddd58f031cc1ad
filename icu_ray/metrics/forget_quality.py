"""Forget quality and model utility, the two numbers of TOFU.

    quality = forget_quality(truth_ratios_of_the_model, truth_ratios_of_the_retrained_model)
    quality.p, quality.log10, quality.floor      # near 1: no test tells the two models apart
    model_utility({"retain_Q_A_Prob": 0.97, ...})        # all of UTILITY_PARTS

A small p says that the two models differ, not in which direction: a model that forgets too much has one too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from icu_ray.metrics.answers import Floats, as_floats

UTILITY_PARTS = (
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
    "retain_Truth_Ratio",
    "ra_Q_A_Prob_normalised",
    "ra_Q_A_ROUGE",
    "ra_Truth_Ratio",
    "wf_Q_A_Prob_normalised",
    "wf_Q_A_ROUGE",
    "wf_Truth_Ratio",
)
"""The nine parts of model utility by OpenUnlearning's names: of the retain set, real authors and world facts each the
probability (normalised for the last two), the recall of ROUGE-L and the truth ratio."""


@dataclass(frozen=True)
class ForgetQuality:
    """The p-value of a two-sample Kolmogorov-Smirnov test; None where no row can be compared.

    log10: of p. Where p is too small for a float (from about 500 rows on), that of the floor. statistic: the largest
    distance of the two cumulative distributions, 0..1. counted: rows that both models have, of all `rows`. floor,
    floor_log10: the smallest p-value that so many rows can have.
    """

    p: float | None
    log10: float | None
    statistic: float | None
    counted: int
    rows: int
    floor: float | None
    floor_log10: float | None


def forget_quality(
    values: Sequence[float | None] | Floats, reference: Sequence[float | None] | Floats
) -> ForgetQuality:
    """Compare the (N,) truth ratios R of a model with those of the retrained model on the same rows.

    Two-sided, by the exact distribution up to 10,000 rows. A row that one of the two has no value of is left out of
    both. ValueError where the numbers of rows differ.
    """
    from scipy import stats  # type: ignore[import-untyped]

    own, other = as_floats(values), as_floats(reference)
    if own.shape != other.shape:
        raise ValueError(
            f"forget quality compares the same rows: {len(own)} of the model, {len(other)} of the reference"
        )
    known = ~(np.isnan(own) | np.isnan(other))
    n = int(known.sum())
    if n == 0:
        return ForgetQuality(None, None, None, 0, len(own), None, None)
    tested = stats.ks_2samp(own[known], other[known], alternative="two-sided", method="auto")
    p = float(tested.pvalue)
    least, least_log10 = p_value_floor(n)
    log10 = math.log10(p) if p > 0 else least_log10
    return ForgetQuality(p, log10, float(tested.statistic), n, len(own), least, least_log10)


def p_value_floor(n: int) -> tuple[float, float]:
    """(p, log10 p) of two samples of n values each that do not overlap: 2 / C(2n, n), the smallest there is."""
    orders = math.comb(2 * n, n)
    return 2 / orders, math.log10(2) - math.log10(orders)


def model_utility(parts: Mapping[str, float | None]) -> float | None:
    """Harmonic mean of the nine UTILITY_PARTS, 0..1; 0 where one is 0, None where one could not be measured.

    Further entries do not count. ValueError where one of the nine is not there.
    """
    absent = [name for name in UTILITY_PARTS if name not in parts]
    if absent:
        raise ValueError(f"model utility is of nine parts; without {', '.join(absent)} there is none")
    values = as_floats([parts[name] for name in UTILITY_PARTS])
    if np.isnan(values).any():
        return None
    if (values <= 0).any():
        return 0.0
    return float(len(values) / (1 / values).sum())
