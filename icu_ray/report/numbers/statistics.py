"""Means with confidence intervals, and paired tests, of a handful of repetitions.

    mean_interval([4.1, 4.6, 4.4])          # Student's t
    paired_tests([4.1, 4.6], [5.0, 5.3])    # the same samples under two methods

Few repetitions say little, and every answer says so: an interval and a test need three values (of two, Student's 95 %
interval is nine times as wide as their distance, and of the many rows of a table one looks significant by chance), and
with n pairs the smallest two-sided p of Wilcoxon's test is 2 / 2^n, so that below six pairs it cannot fall under 0.05.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.95
FEWEST = 3
"""Values of which an interval, a deviation or a test is told; of fewer their mean and they themselves."""
WILCOXON_PAIRS = 6
"""Fewest pairs with which Wilcoxon's signed-rank test can reach p < 0.05 (two-sided)."""


Over = Literal["forget samples", "seeds"]
"""What the repetitions of a measurement are."""


@dataclass(frozen=True)
class Estimate:
    """A mean of n values; half: half the width of its 95 % confidence interval, None for fewer than FEWEST.

    over: what the values are. seed_std: of samples with several seeds each, the standard deviation over the seeds of a
    sample, pooled over the samples (`seed_deviation`).
    """

    n: int
    mean: float
    half: float | None
    over: Over = "forget samples"
    seed_std: float | None = None


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same n units. difference: mean of first minus second; p values None where undefined."""

    n: int
    difference: float
    half: float | None
    p_t: float | None
    p_wilcoxon: float | None
    note: str


def repeated_over(units: Iterable[tuple[int, int | None]]) -> Over:
    """What the repetitions are of trials that were planned for these (forget sample, seed).

    Seeds of one sample share its texts, so they do not say how another sample would do: of several samples each counts
    once, with the mean over its seeds. Of a single sample its seeds are what there is. It is asked of all that was
    planned: what is missing or failed does not turn samples into seeds.
    """
    planned = set(units)
    return "seeds" if len({sample for sample, _ in planned}) == 1 and len(planned) > 1 else "forget samples"


def repetitions(values: Iterable[tuple[int, float | None]], over: Over) -> list[float]:
    """The repetitions among values of (forget sample, with some seed), by what `repeated_over` says they are."""
    by_sample = _by_sample(values)
    if over == "seeds":
        return [value for known in by_sample.values() for value in known]
    return [statistics.fmean(known) for known in by_sample.values()]


def _by_sample(values: Iterable[tuple[int, float | None]]) -> dict[int, list[float]]:
    """The known values of each forget sample."""
    found: dict[int, list[float]] = {}
    for sample, value in values:
        if value is not None:
            found.setdefault(sample, []).append(value)
    return found


def seed_deviation(values: Iterable[tuple[int, float | None]]) -> float | None:
    """Standard deviation over the seeds of one forget sample, pooled over several samples (each about its own mean).

    values: of (forget sample, with some seed). None with a single sample, whose seeds are its repetitions and have an
    interval, and with fewer than FEWEST - 1 degrees of freedom.
    """
    by_sample = _by_sample(values)
    freedom = sum(len(known) - 1 for known in by_sample.values())
    if len(by_sample) < 2 or freedom < FEWEST - 1:
        return None
    squares = [(value - statistics.fmean(known)) ** 2 for known in by_sample.values() for value in known]
    return math.sqrt(math.fsum(squares) / freedom)


def mean_interval(values: Sequence[float | None], over: Over = "forget samples") -> Estimate | None:
    """Mean and 95 % interval (of at least FEWEST) by Student's t over the known values; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) < FEWEST:
        return Estimate(len(known), statistics.fmean(known), None, over)
    from scipy import stats  # type: ignore[import-untyped]

    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1))
    half = quantile * statistics.stdev(known) / math.sqrt(len(known))
    return Estimate(len(known), statistics.fmean(known), half, over)


def paired_tests(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Paired t and Wilcoxon's signed-rank test (two-sided) of values of the same units, in the same order."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = mean_interval(differences)
    if interval is None:
        return PairedTest(0, math.nan, None, None, None, "no sample was measured under both")
    n = interval.n
    if n < FEWEST:
        return PairedTest(n, interval.mean, None, None, None, f"{'one pair' if n == 1 else 'two pairs'}: no test")
    scale = max(1.0, *(abs(value) for value in (*first, *second)))
    if max(differences) - min(differences) <= 1e-12 * scale:
        return PairedTest(n, interval.mean, interval.half, None, None, "the same difference in every pair: no test")
    from scipy import stats

    p_t = float(stats.ttest_rel(first, second).pvalue)
    p_wilcoxon = float(stats.wilcoxon(differences).pvalue)
    return PairedTest(n, interval.mean, interval.half, p_t, p_wilcoxon, _note(n))


def _note(n: int) -> str:
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
