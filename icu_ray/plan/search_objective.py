"""What a search maximises: forgetting first, and then as little of the rest as possible.

value = objective_of(after, before, config.stop)
value = with_came_back(value, record.came_back)              # search.objective=audited
"""

from __future__ import annotations

import math

from icu_ray.config import SearchConfig, StopConfig
from icu_ray.plan.thresholds import thresholds_of
from icu_ray.storage.results import Scores

OBJECTIVE = "objective"
NOT_FORGOTTEN = 10.0
"""What a whole MA or EL above its threshold costs, or all texts come back, beside the logarithm of the perplexity
ratio."""


def objective_of(after: Scores, before: Scores | None, stop: StopConfig) -> float | None:
    """'forget_cheaply': -(10 (MA - threshold)+ + 10 (EL - threshold)+ + log(perplexity after / before)).

    None where the perplexity was not measured, or there is no threshold. A perplexity that is not finite counts as 1000
    times the one before.
    """
    if before is None or before.ppl_heldout is None:
        return None
    ratio = 1000.0 if after.ppl_heldout is None else min(after.ppl_heldout / before.ppl_heldout, 1000.0)
    limits = thresholds_of(stop, before)
    if not limits.known:
        return None
    above = max(0.0, (1.0 if after.ma is None else after.ma) - limits.ma.value)
    above += max(0.0, (after.el or 0.0) - limits.el.value)
    return -(NOT_FORGOTTEN * above + math.log(ratio))


def with_came_back(value: float | None, came_back: float | None) -> float | None:
    """'audited': that, minus 10 times the part of the texts that come back, 0..1. None where one is not known."""
    return None if value is None or came_back is None else value - NOT_FORGOTTEN * came_back


def middle_of(search: SearchConfig) -> dict[str, float]:
    """Values from the midst of a space: they stand for what its trials will need."""
    return {name: (each.low + each.high) / 2 for name, each in search.space.items()}
