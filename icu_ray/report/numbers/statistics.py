"""Means with confidence intervals, and paired tests, of a handful of repetitions.

    mean_interval([4.1, 4.6, 4.4])          # Student's t
    paired_tests([4.1, 4.6], [5.0, 5.3])    # the same samples under two methods

Few repetitions say little, and every answer says so: an interval needs three values (of two, Student's 95 % interval is
nine times as wide as their distance), and with n pairs the smallest two-sided p of Wilcoxon's test is 2 / 2^n, so that
below six pairs it cannot fall under 0.05.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVEL = 0.95
FEWEST = 3
"""Values of which an interval or a deviation is told; of fewer their mean and they themselves."""
WILCOXON_PAIRS = 6
"""Fewest pairs with which Wilcoxon's signed-rank test can reach p < 0.05 (two-sided)."""


@dataclass(frozen=True)
class Estimate:
    """A mean of n values; half: half the width of its 95 % confidence interval, None for fewer than FEWEST."""

    n: int
    mean: float
    half: float | None


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same n units. difference: mean of first minus second; p values None where undefined."""

    n: int
    difference: float
    half: float | None
    p_t: float | None
    p_wilcoxon: float | None
    note: str


def repetitions(values: Iterable[tuple[int, float | None]]) -> list[float]:
    """What counts as one repetition of a measurement that was made on (forget sample, with some seed).

    Seeds of one sample share its texts, so they do not say how another sample would do: of several samples each counts
    once, with the mean over its seeds. Of a single sample its seeds are what there is.
    """
    by_sample: dict[int, list[float]] = {}
    for sample, value in values:
        if value is not None:
            by_sample.setdefault(sample, []).append(value)
    if len(by_sample) == 1:
        return next(iter(by_sample.values()))
    return [statistics.fmean(known) for known in by_sample.values()]


def mean_interval(values: Sequence[float | None]) -> Estimate | None:
    """Mean and 95 % interval (of at least FEWEST) by Student's t over the known values; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) < FEWEST:
        return Estimate(len(known), statistics.fmean(known), None)
    from scipy import stats  # type: ignore[import-untyped]

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1))
    return Estimate(len(known), statistics.fmean(known), quantile * statistics.stdev(known) / math.sqrt(len(known)))


def paired_tests(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Paired t and Wilcoxon's signed-rank test (two-sided) of values of the same units, in the same order."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences)
    if interval is None:
        return PairedTest(0, math.nan, None, None, None, "no sample was measured under both")
    n = interval.n
    scale = max(1.0, *(abs(value) for value in (*first, *second)))
    if max(differences) - min(differences) <= 1e-12 * scale:
        note = "one pair: no test" if n == 1 else "the same difference in every pair: no test"
        return PairedTest(n, interval.mean, interval.half, None, None, note)
    from scipy import stats

    p_t = float(stats.ttest_rel(first, second).pvalue)
    p_wilcoxon = float(stats.wilcoxon(differences).pvalue)
    return PairedTest(n, interval.mean, interval.half, p_t, p_wilcoxon, _note(n))


def _note(n: int) -> str:
    if n == 2:
        return "two pairs: one degree of freedom, only a huge effect would show"
    if n < WILCOXON_PAIRS:
        return f"{n} pairs: Wilcoxon's p cannot be below {2 / 2**n:.3g}"
    return ""


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm's step-down procedure); None stays None and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    reached = 0.0
    for rank, (p, place) in enumerate(order):
        reached = max(reached, min(1.0, p * (len(order) - rank)))
        adjusted[place] = reached
    return adjusted
