"""The thresholds of a trial as numbers: the config's own, or what the original model does on held-out texts.

thresholds = thresholds_of(config.stop, history[0].scores, config.el.ngram)
"""

from __future__ import annotations

import math

from icu_ray.config import StopConfig
from icu_ray.storage.results import Scores
from icu_ray.storage.thresholds import Limit, Thresholds


def thresholds_of(stop: StopConfig, before: Scores | None = None, ngram: int = 10) -> Thresholds:
    """before: the original model's scores, which 'heldout' asks for; without them `known` is False."""
    before = before or Scores(None, None, None, None, None, None)
    return Thresholds(
        _limit(stop.ma, before.ma_heldout, before.ma_heldout_spread, before.heldout_texts),
        _limit(stop.el, before.el_heldout, before.el_heldout_spread, before.heldout_texts),
        "or" if stop.rule == "or" else "and",
        stop.max_ppl_ratio,
        ngram,
    )


def _limit(asked: float | str, mean: float | None, spread: float | None, texts: int | None) -> Limit:
    if not isinstance(asked, str):
        return Limit(asked)
    return Limit(math.nan if mean is None else mean, "heldout", spread, texts or 0)
