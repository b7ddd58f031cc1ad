"""The thresholds that a trial was judged by, as numbers; plan/thresholds.py makes them of a config.

thresholds.below(scores.ma, scores.el)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Limit:
    """A threshold of MA or EL. source: a number of the config, or what the original model does on held-out texts.

    spread: the standard deviation between those texts; texts: how many they are.
    """

    __pydantic_config__ = _STRICT

    value: float
    source: Literal["number", "heldout"] = "number"
    spread: float | None = None
    texts: int = 0

    def judge(self, measured: float | None) -> bool | None:
        """Whether it lies below, None where one of the two is not known. As low as the held-out texts' mean will do."""
        if measured is None or not math.isfinite(self.value):
            return None
        return measured <= self.value if self.source == "heldout" else measured < self.value

    def holds(self, measured: float | None) -> bool:
        """Whether it lies below; what was not measured does not."""
        return self.judge(measured) is True


@dataclass(frozen=True)
class Thresholds:
    """What a trial was judged by, as numbers.

    ngram: n of EL. heldout_above: how many held-out texts did not lie below before anything was unlearned, which tells
    what to expect of texts that were never read.
    """

    __pydantic_config__ = _STRICT

    ma: Limit
    el: Limit
    rule: Literal["and", "or"] = "and"
    max_ppl_ratio: float | None = None
    ngram: int = 10
    heldout_above: int | None = None

    @property
    def named(self) -> dict[str, Limit]:
        """Each by what people call it."""
        return {"MA": self.ma, f"EL{self.ngram}": self.el}

    @property
    def from_heldout(self) -> tuple[str, ...]:
        """Names of those that are means of held-out texts."""
        return tuple(name for name, limit in self.named.items() if limit.source == "heldout")

    def judge(self, ma: float | None, el: float | None) -> bool | None:
        """Whether these values lie below the thresholds: both, by rule 'or' one; None where that cannot be told."""
        held = self.ma.judge(ma), self.el.judge(el)
        decisive = self.rule == "or"
        if decisive in held:
            return decisive
        return None if None in held else not decisive

    def below(self, ma: float | None, el: float | None) -> bool:
        """Whether these values are known to lie below the thresholds."""
        return self.judge(ma, el) is True

    @property
    def known(self) -> bool:
        """Whether there are numbers: held-out texts that cannot be measured give none."""
        return math.isfinite(self.ma.value) and math.isfinite(self.el.value)
