"""The parts of the answer about an unlearned model: plain values, and the words in which each is said.

    cost = cost_of(before, after, 1.5, evaluation); cost.said     # 'held-out perplexity is 1.20 times ...'

icu_ray/storage/verdict.py puts them together and decides. Pure values: no Ray, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from icu_ray.storage.results import Scores, TrialEvaluation
from icu_ray.storage.thresholds import Thresholds

State = Literal["forgotten", "left", "not_measured"]

_DISTINCT_LOST = 0.5
"""A model has collapsed when the share of distinct tokens in what it says falls below so much of what it was."""
_NAMED = 10
"""So many ids stand in a line; the JSON has all."""


@dataclass(frozen=True)
class TextVerdict:
    """One text. left: still above a threshold. not_measured: what was measured of it does not decide."""

    id: str
    state: State
    ma: float | None
    el: float | None


@dataclass(frozen=True)
class Cost:
    """What unlearning cost. within: whether the ratio keeps the limit, None without a limit or a measurement.

    ppl_ratio: held-out perplexity after divided by before; None too where the one after is not finite, and then no
    limit is kept. tasks: metrics by full name, before and after.
    """

    ppl_before: float | None
    ppl_after: float | None
    ppl_ratio: float | None
    limit: float | None
    within: bool | None
    tasks: Mapping[str, tuple[float | None, float | None]]

    @property
    def said(self) -> str:
        """Of the perplexity, what the end of a sentence can be."""
        if self.ppl_before is None:
            return "not measured: no perplexity on held-out texts is known"
        limit = "" if self.limit is None else f" (limit {self.limit:g})"
        if self.ppl_after is None or self.ppl_ratio is None:
            return f"held-out perplexity rose from {self.ppl_before:.2f} to infinity{limit}"
        told = f"{self.ppl_before:.2f} -> {self.ppl_after:.2f}"
        return f"held-out perplexity is {self.ppl_ratio:.2f} times what it was{limit}: {told}"


@dataclass(frozen=True)
class Speech:
    """How varied what the model says is: the share of distinct tokens in it. of: after whose beginnings it was asked.

    collapsed: it lost more than half of that share, or its perplexity is not finite; None where not measured.
    """

    of: Literal["heldout", "targets"]
    distinct_before: float | None
    distinct_after: float | None
    collapsed: bool | None

    @property
    def said(self) -> str:
        """Of a model that has collapsed, what the end of a sentence can be."""
        whose = "held-out texts" if self.of == "heldout" else "the texts"
        if self.distinct_before is None or self.distinct_after is None:
            return "its perplexity is not a finite number"
        shares = f"{percent(self.distinct_before)} -> {percent(self.distinct_after)}"
        return f"after the beginnings of {whose} it repeats itself or says nothing: share of distinct tokens {shares}"


@dataclass(frozen=True)
class HeldOut:
    """What the model does on texts that nobody asked to forget: means of MA and EL over as many of them as `texts`.

    sets: the thresholds that are these texts' means before unlearning, as they are named: MA, EL10.
    """

    texts: int | None
    ngram: int
    ma_before: float | None
    ma_after: float | None
    el_before: float | None
    el_after: float | None
    sets: tuple[str, ...]

    @property
    def said(self) -> tuple[str, ...]:
        """The means before and after, and which thresholds come from them."""
        sides = {
            "MA": (self.ma_before, self.ma_after),
            f"EL{self.ngram}": (self.el_before, self.el_after),
        }
        if all(value is None for values in sides.values() for value in values):
            return ("not measured",)
        told = [f"mean {name} {percent(first)} -> {percent(last)}" for name, (first, last) in sides.items()]
        whose = "" if self.texts is None else f"{count_of(self.texts)}: "
        return (whose + ", ".join(told), sets_said(self.sets))


def sets_said(names: Sequence[str]) -> str:
    """Which thresholds are the held-out texts' means before unlearning."""
    if not names:
        return "the thresholds do not come from them"
    several = len(names) > 1
    return f"the threshold{'s' * several} of {' and '.join(names)} come{'s' * (not several)} from them"


def cost_of(before: Scores, after: Scores, limit: float | None, evaluation: TrialEvaluation | None) -> Cost:
    """What it cost, from the scores before and after."""
    first, last = before.ppl_heldout, after.ppl_heldout
    ratio = None if not first or last is None else last / first
    within = None if limit is None or first is None else ratio is not None and ratio <= limit
    none: Mapping[str, float | None] = {}
    sides = (none, none) if evaluation is None else (evaluation.before, evaluation.after)
    tasks = {name: (sides[0].get(name), sides[1].get(name)) for name in {**sides[0], **sides[1]}}
    return Cost(first, last, ratio, limit, within, tasks)


def speech_of(before: Scores, after: Scores) -> Speech:
    """How varied what it says is: after held-out texts' beginnings where those were measured, else after the texts'."""
    heldout = before.distinct_heldout is not None
    first = before.distinct_heldout if heldout else before.distinct
    last = after.distinct_heldout if heldout else after.distinct
    lost = None if first is None or last is None else last < _DISTINCT_LOST * first
    if before.ppl_heldout is not None and after.ppl_heldout is None:
        lost = True
    return Speech("heldout" if heldout else "targets", first, last, lost)


def heldout_of(before: Scores, after: Scores, limits: Thresholds | None) -> HeldOut:
    """What was measured on held-out texts, and what came from it."""
    texts = after.heldout_texts if before.heldout_texts is None else before.heldout_texts
    ngram = after.ngram if limits is None else limits.ngram
    sets = () if limits is None else limits.from_heldout
    return HeldOut(texts, ngram, before.ma_heldout, after.ma_heldout, before.el_heldout, after.el_heldout, sets)


def means_said(limits: Thresholds) -> str:
    """Which thresholds are means, and of how many texts."""
    texts = max(limits.ma.texts, limits.el.texts)
    return f"{' and '.join(limits.from_heldout)}: the mean of {texts} held-out texts before unlearning"


def thresholds_said(limits: Thresholds) -> list[str]:
    """What the thresholds are, and where they come from."""
    said = []
    for name, limit in limits.named.items():
        sign = "at most" if limit.source == "heldout" else "below"
        spread = "" if limit.spread is None else f" (spread {100 * limit.spread:.1f})"
        said.append(f"{name} {sign} {percent(limit.value)}{spread}")
    lines = [f" {limits.rule} ".join(said)]
    if limits.from_heldout:
        lines.append(means_said(limits))
        if limits.heldout_above is not None:
            lines.append(f"of these held-out texts, {limits.heldout_above} are above the thresholds")
    else:
        lines.append("fixed beforehand, not taken from texts that the model never read")
    return lines


def percent(value: float | None) -> str:
    """A fraction in per cent."""
    return "not measured" if value is None else f"{100 * value:.2f} %"


def count_of(number: int) -> str:
    """'1 text', '2 texts'."""
    return f"{number} text{'s' * (number != 1)}"


def some_of(ids: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
