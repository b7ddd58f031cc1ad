"""The answer about an unlearned model, in three parts: is it forgotten, at what cost, and what is left?

    verdict = verdict_of(result, read_samples(paths), read_evaluation(paths))
    verdict.success, verdict.headline, verdict.lines, verdict_json(verdict)

Terminal, JSON, page, MLflow and API all show this value. One rule decides: a value of MA or EL lies below its threshold
or it does not. It is asked of each text and of the means of all texts together. Pure values: no Ray, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from icu_ray.storage.results import SampleRecord, Scores, TrialEvaluation, TrialResult, finite
from icu_ray.storage.thresholds import Limit, Thresholds

Outcome = Literal["success", "not_forgotten", "too_costly", "collapsed", "failed"]
State = Literal["forgotten", "left", "not_measured"]

_DISTINCT_LOST = 0.5
"""A model has collapsed when the share of distinct tokens in what it says falls below so much of what it was."""
_NOTHING = Scores(None, None, None, None, None, None)
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


@dataclass(frozen=True)
class Speech:
    """How varied what the model says is: the share of distinct tokens in it. of: after whose beginnings it was asked.

    collapsed: it lost more than half of that share, or its perplexity is not finite; None where not measured.
    """

    of: Literal["heldout", "targets"]
    distinct_before: float | None
    distinct_after: float | None
    collapsed: bool | None


@dataclass(frozen=True)
class Verdict:
    """The answer. together: the texts' means lie below the thresholds. already: they did so before unlearning.

    success: forgotten together, within the cost limit, not collapsed. ma, el: the means after.
    """

    outcome: Outcome
    together: bool
    already: bool
    ma: float | None
    el: float | None
    texts: tuple[TextVerdict, ...]
    thresholds: Thresholds | None
    cost: Cost
    speech: Speech
    reason: str

    @property
    def success(self) -> bool:
        """Whether the model can be given out as one that has forgotten."""
        return self.outcome == "success"

    @property
    def each(self) -> bool:
        """Whether every text, taken by itself, is forgotten; then they are so together."""
        return bool(self.texts) and all(text.state == "forgotten" for text in self.texts)

    def ids(self, state: State) -> tuple[str, ...]:
        """Of the texts in this state."""
        return tuple(text.id for text in self.texts if text.state == state)

    @property
    def headline(self) -> str:
        """The answer in one sentence."""
        left = len(self.ids("left"))
        if self.outcome == "failed":
            return f"Failed: {self.reason}"
        unmeasured = len(self.ids("not_measured"))
        if self.already and self.success and not left and not unmeasured:
            return "There was nothing to forget: the texts were below the thresholds before unlearning."
        if self.outcome == "not_forgotten":
            return f"NOT forgotten: {self.reason}"
        if self.outcome == "too_costly":
            return f"NOT acceptable: the texts are forgotten, but {_cost_said(self.cost)}."
        if self.outcome == "collapsed":
            return f"NOT acceptable: the texts are forgotten, but the model has collapsed; {_speech_said(self.speech)}."
        if unmeasured and not left:
            return f"Forgotten on average; {unmeasured} of {len(self.texts)} texts could not be measured."
        if left:
            some = f"{left} of {len(self.texts)} texts {'is' if left == 1 else 'are'}"
            return f"Forgotten on average; {some} still above the thresholds."
        return "Forgotten." if self.cost.ppl_ratio is not None else "Forgotten; what it cost was not measured."

    @property
    def lines(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The three parts and the thresholds, each a question and the sentences of its answer."""
        said = [("forgotten?", self._forgotten_said())]
        if self.thresholds is not None:
            said.append(("thresholds", _thresholds_said(self.thresholds)))
        said += [("at what cost?", self._cost_lines()), ("what is left?", self._left_said())]
        return tuple((what, tuple(sentences)) for what, sentences in said)

    def _forgotten_said(self) -> list[str]:
        limits = self.thresholds
        el = "EL" if limits is None else f"EL{limits.ngram}"
        means = f"mean MA {_percent(self.ma)}, mean {el} {_percent(self.el)}"
        said = [f"all together: {'yes' if self.together else 'no'} ({means})"]
        if self.texts:
            said.append(f"each by itself: {len(self.ids('forgotten'))} of {len(self.texts)} texts")
        if self.already:
            said.append("the means were below the thresholds before anything was unlearned")
        return said

    def _cost_lines(self) -> list[str]:
        said = [_cost_said(self.cost)]
        for name, (before, after) in self.cost.tasks.items():
            if name.endswith("/avg"):
                said.append(f"{name} {_percent(before)} -> {_percent(after)}")
        if self.speech.collapsed:
            said.append(f"the model has collapsed: {_speech_said(self.speech)}")
        return said

    def _left_said(self) -> list[str]:
        left, unmeasured = self.ids("left"), self.ids("not_measured")
        if not self.texts:
            return ["not known: the single texts were not measured"]
        said = [f"{_count(left)} above the thresholds: {_named(left)}" if left else "no text is above the thresholds"]
        if unmeasured:
            said.append(f"{_count(unmeasured)} could not be measured: {_named(unmeasured)}")
        return said


def verdict_of(
    result: TrialResult, samples: Sequence[SampleRecord] = (), evaluation: TrialEvaluation | None = None
) -> Verdict | None:
    """None for a result that does not say its thresholds: of an earlier version, or ended before its time."""
    limits, failed = result.thresholds, result.status == "failed"
    if not failed and (limits is None or result.after is None):
        return None
    before, after = result.before or _NOTHING, result.after or _NOTHING
    texts = () if failed or limits is None else _judged(samples, after, limits)
    below = limits is not None and limits.below(after.ma, after.el)
    # A mean of values below a threshold lies below it, but for the last digit of its rounding.
    together = not failed and (below or (bool(texts) and all(text.state == "forgotten" for text in texts)))
    cost = _cost_of(before, after, None if limits is None else limits.max_ppl_ratio, evaluation)
    speech = _speech_of(before, after)
    outcome: Outcome = "success"
    if failed:
        outcome = "failed"
    elif not together:
        outcome = "not_forgotten"
    elif cost.within is False:
        outcome = "too_costly"
    elif speech.collapsed:
        outcome = "collapsed"
    already = limits is not None and limits.below(before.ma, before.el)
    return Verdict(outcome, together, already, after.ma, after.el, texts, limits, cost, speech, result.reason)


def is_too_costly(result: TrialResult) -> bool:
    """Whether a model forgot, but is past the cost limit that its trial had."""
    verdict = verdict_of(result)
    return verdict is not None and verdict.outcome == "too_costly"


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values for JSON; what was not measured is None."""
    states: tuple[State, ...] = ("forgotten", "left", "not_measured")
    told = {
        "outcome": verdict.outcome,
        "success": verdict.success,
        "headline": verdict.headline,
        "forgotten": {
            "together": verdict.together,
            "each": verdict.each if verdict.texts else None,
            "already": verdict.already,
            "ma": verdict.ma,
            "el": verdict.el,
            "counts": {state: len(verdict.ids(state)) for state in states},
            "texts": [asdict(text) for text in verdict.texts],
        },
        "cost": {**asdict(verdict.cost), "speech": asdict(verdict.speech)},
        "left": list(verdict.ids("left")),
        "not_measured": list(verdict.ids("not_measured")),
        "thresholds": None if verdict.thresholds is None else asdict(verdict.thresholds),
        "lines": {what: "; ".join(sentences) for what, sentences in verdict.lines},
    }
    return {key: finite(value) for key, value in told.items()}


def _judged(samples: Sequence[SampleRecord], after: Scores, limits: Thresholds) -> tuple[TextVerdict, ...]:
    """Each text by the measures that the means are judged by.

    Under rule 'or' those are the ones whose mean lies below, so that no text is called forgotten for another measure
    than the sample is; where neither does, a text needs both.
    """
    both = (limits.ma, limits.el)
    means = (after.ma, after.el)
    held = [limit.holds(mean) for limit, mean in zip(both, means, strict=True)]
    one_is_enough = limits.rule == "or" and any(held)
    counted = held if one_is_enough else [True, True]
    found = []
    for sample in samples:
        values = (sample.ma_after, sample.el_after)
        asked = [(limit, value) for limit, value, counts in zip(both, values, counted, strict=True) if counts]
        found.append(TextVerdict(sample.id, _state(asked, one_is_enough), *values))
    return tuple(found)


def _state(asked: Sequence[tuple[Limit, float | None]], one_is_enough: bool) -> State:
    held = [limit.holds(value) for limit, value in asked if value is not None]
    complete = len(held) == len(asked)
    if one_is_enough:
        return "forgotten" if any(held) else "left" if complete else "not_measured"
    return "left" if not all(held) else "forgotten" if complete else "not_measured"


def _cost_of(before: Scores, after: Scores, limit: float | None, evaluation: TrialEvaluation | None) -> Cost:
    first, last = before.ppl_heldout, after.ppl_heldout
    ratio = None if not first or last is None else last / first
    within = None if limit is None or first is None else ratio is not None and ratio <= limit
    none: Mapping[str, float | None] = {}
    sides = (none, none) if evaluation is None else (evaluation.before, evaluation.after)
    tasks = {name: (sides[0].get(name), sides[1].get(name)) for name in {**sides[0], **sides[1]}}
    return Cost(first, last, ratio, limit, within, tasks)


def _speech_of(before: Scores, after: Scores) -> Speech:
    heldout = before.distinct_heldout is not None
    first = before.distinct_heldout if heldout else before.distinct
    last = after.distinct_heldout if heldout else after.distinct
    lost = None if first is None or last is None else last < _DISTINCT_LOST * first
    if before.ppl_heldout is not None and after.ppl_heldout is None:
        lost = True
    return Speech("heldout" if heldout else "targets", first, last, lost)


def _cost_said(cost: Cost) -> str:
    if cost.ppl_before is None:
        return "not measured: there are no held-out texts"
    limit = "" if cost.limit is None else f" (limit {cost.limit:g})"
    if cost.ppl_after is None or cost.ppl_ratio is None:
        return f"held-out perplexity rose from {cost.ppl_before:.2f} beyond every number{limit}"
    told = f"{cost.ppl_before:.2f} -> {cost.ppl_after:.2f}"
    return f"held-out perplexity is {cost.ppl_ratio:.2f} times what it was{limit}: {told}"


def _speech_said(speech: Speech) -> str:
    whose = "held-out texts" if speech.of == "heldout" else "the texts"
    if speech.distinct_before is None or speech.distinct_after is None:
        return "its perplexity is not a finite number"
    shares = f"{_percent(speech.distinct_before)} -> {_percent(speech.distinct_after)}"
    return f"after the beginnings of {whose} it repeats itself: share of distinct tokens {shares}"


def _thresholds_said(limits: Thresholds) -> list[str]:
    said = []
    for name, limit in (("MA", limits.ma), (f"EL{limits.ngram}", limits.el)):
        sign = "at most" if limit.source == "heldout" else "below"
        spread = "" if limit.spread is None else f" (spread {100 * limit.spread:.1f})"
        said.append(f"{name} {sign} {_percent(limit.value)}{spread}")
    lines = [f" {limits.rule} ".join(said)]
    made = [name for name, limit in (("MA", limits.ma), (f"EL{limits.ngram}", limits.el)) if limit.source == "heldout"]
    texts = max(limits.ma.texts, limits.el.texts)
    if made:
        lines.append(f"{' and '.join(made)}: the mean of {texts} held-out texts before unlearning")
        if limits.heldout_above is not None:
            lines.append(f"of these held-out texts, {limits.heldout_above} are above the thresholds")
    else:
        lines.append("given as numbers, not measured on this model")
    return lines


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.2f} %"


def _count(ids: Sequence[str]) -> str:
    return f"{len(ids)} text{'s' * (len(ids) != 1)}"


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
