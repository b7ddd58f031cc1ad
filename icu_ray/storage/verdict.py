"""The answer about an unlearned model, in three parts: is it forgotten, at what cost, and what is left?

    verdict = verdict_of(result, read_samples(paths), read_evaluation(paths), read_audit(paths))
    verdict.success, verdict.headline, verdict.lines, verdict_json(verdict)

Terminal, JSON, page, MLflow and API all show this value. One rule decides: a value of MA or EL lies below its threshold
or it does not. It is asked of each text and of the means of all texts together. Where the model was attacked, what came
back is said beside it, whatever the rule says. Pure values: no Ray, no files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from icu_ray.storage.audits import ModelAudit, TrialAudit
from icu_ray.storage.el_names import in_files
from icu_ray.storage.results import NOTHING_UNLEARNED, SampleRecord, Scores, TrialEvaluation, TrialResult, finite
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.verdict_parts import (
    Cost,
    HeldOut,
    Speech,
    State,
    TextVerdict,
    cost_of,
    count_of,
    heldout_of,
    percent,
    some_of,
    speech_of,
    thresholds_said,
)

Outcome = Literal["success", "not_forgotten", "too_costly", "collapsed", "failed", "measured"]
OUTCOME_WORD: Mapping[Outcome, str] = {
    "success": "forgotten",
    "not_forgotten": "not forgotten",
    "too_costly": "forgotten, too costly",
    "collapsed": "forgotten, but collapsed",
    "failed": "failed",
    "measured": "measured",
}
"""How tables and logs call it, in a word or two; what is no success is not called one."""
_NOTHING = Scores(None, None, None, None, None, None)


@dataclass(frozen=True)
class Verdict:
    """The answer. together: the texts' means lie below the thresholds. already: they did so before unlearning.

    success: forgotten together, within the cost limit, not collapsed. ma, el: the means after. audit: what attacks on
    the model found; None where it was not attacked.
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
    heldout: HeldOut
    audit: ModelAudit | None = None

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
        """The answer in one sentence, and in another one what attacks brought back, or that this is not known."""
        if self.audit is None or self.audit.share == 0 or self.outcome == "failed":
            return self._answer
        return f"{self._answer} Attacks: {self.audit.said()}."

    @property
    def _answer(self) -> str:
        left = len(self.ids("left"))
        if self.outcome == "failed":
            return f"Failed: {self.reason}"
        unmeasured = len(self.ids("not_measured"))
        if self.already and self.success and not left and not unmeasured:
            return "There was nothing to forget: the texts were below the thresholds before unlearning."
        if self.outcome == "not_forgotten":
            return f"NOT forgotten: {self.reason}"
        if self.outcome == "too_costly":
            return f"NOT acceptable: the texts are forgotten, but {self.cost.said}."
        if self.outcome == "collapsed":
            return f"NOT acceptable: the texts are forgotten, but the model has collapsed; {self.speech.said}."
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
            said.append(("thresholds", thresholds_said(self.thresholds)))
            said.append(("held-out texts", [*self.heldout.said, *self._still_known()]))
        said += [("at what cost?", self._cost_lines()), ("what is left?", self._left_said())]
        if self.audit is not None:
            unmeasured = len(self.audit.missing) + len(self.audit.errors)
            more = [f"{unmeasured} {'part' if unmeasured == 1 else 'parts'} of the audit not measured"]
            said.append(("does it come back?", [self.audit.said(), *(more if unmeasured else [])]))
        return tuple((what, tuple(sentences)) for what, sentences in said)

    def _forgotten_said(self) -> list[str]:
        limits = self.thresholds
        el = "EL" if limits is None else f"EL{limits.ngram}"
        means = f"mean MA {percent(self.ma)}, mean {el} {percent(self.el)}"
        said = [f"all together: {'yes' if self.together else 'no'} ({means})"]
        if self.texts:
            said.append(f"each by itself: {len(self.ids('forgotten'))} of {len(self.texts)} texts")
        if self.already:
            said.append("the means were below the thresholds before anything was unlearned")
        return said

    def _still_known(self) -> list[str]:
        """What thresholds that were fixed beforehand hide: how much better than held-out texts it still knows these."""
        limits, unread = self.thresholds, self.heldout.ma_after
        if limits is None or "MA" in limits.from_heldout or self.ma is None or unread is None:
            return []
        points = 100 * (self.ma - unread)
        return (
            [f"mean MA of the texts to forget is still {points:.0f} points above that of the held-out texts"]
            if points >= 5
            else []
        )

    def _cost_lines(self) -> list[str]:
        said = [self.cost.said]
        for name, (before, after) in self.cost.tasks.items():
            if name.endswith("/avg"):
                said.append(f"{name} {percent(before)} -> {percent(after)}")
        if self.speech.collapsed:
            said.append(f"the model has collapsed: {self.speech.said}")
        return said

    def _left_said(self) -> list[str]:
        left, unmeasured = self.ids("left"), self.ids("not_measured")
        if not self.texts:
            return ["not known: the single texts were not measured"]
        said = ["no text is above the thresholds"]
        if left:
            said = [f"{count_of(len(left))} above the thresholds: {some_of(left)}"]
        if unmeasured:
            said.append(f"{count_of(len(unmeasured))} could not be measured: {some_of(unmeasured)}")
        if left and self.success and self.thresholds is not None and not self.thresholds.from_heldout:
            said.append("with lower thresholds (stop.ma, stop.el) it continues")
        return said


def verdict_of(
    result: TrialResult,
    samples: Sequence[SampleRecord] = (),
    evaluation: TrialEvaluation | None = None,
    audit: TrialAudit | None = None,
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
    cost = cost_of(before, after, None if limits is None else limits.max_ppl_ratio, evaluation)
    speech = speech_of(before, after)
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
    heldout = heldout_of(before, after, limits)
    attacked = None if audit is None else audit.after
    return Verdict(
        outcome, together, already, after.ma, after.el, texts, limits, cost, speech, result.reason, heldout, attacked
    )


def result_outcome(result: TrialResult) -> Outcome:
    """The outcome of `verdict_of`; of a result that has no verdict, what its status says; 'measured' where nothing was
    unlearned."""
    if result.reason in NOTHING_UNLEARNED:
        return "measured"
    verdict = verdict_of(result)
    if verdict is not None:
        return verdict.outcome
    return "success" if result.status == "finished" else result.status


def is_success(result: TrialResult) -> bool:
    """Whether the model forgot, within the cost limit if its trial had one, and has not collapsed."""
    return result_outcome(result) == "success"


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain values for JSON; what was not measured is None. EL is called by its n, as `el10`."""
    ngram = verdict.heldout.ngram
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
            f"el{ngram}": verdict.el,
            "counts": {state: len(verdict.ids(state)) for state in states},
            "texts": [in_files({**asdict(text), "ngram": ngram}) for text in verdict.texts],
        },
        "cost": {**asdict(verdict.cost), "speech": asdict(verdict.speech)},
        "heldout": in_files(asdict(verdict.heldout)),
        "left": list(verdict.ids("left")),
        "not_measured": list(verdict.ids("not_measured")),
        "thresholds": None if verdict.thresholds is None else in_files(asdict(verdict.thresholds)),
        "audit": None if verdict.audit is None else _audit_json(verdict.audit),
        "lines": {what: "; ".join(sentences) for what, sentences in verdict.lines},
    }
    return {key: finite(value) for key, value in told.items()}


def _audit_json(audit: ModelAudit) -> dict[str, Any]:
    """What came back; the single findings are in audit.json. share: None where it is not known."""
    worst = audit.worst
    return {
        "said": audit.said(),
        "back": audit.back,
        "rows": audit.total,
        "share": audit.share,
        "rows_not_measured": audit.unmeasured,
        "control_back": audit.control_back,
        "control_rows": audit.control_total,
        "worst": None if worst is None else asdict(worst),
        "texts_back": [row.row for row in audit.rows if row.back],
        "texts_attacked": [row.row for row in audit.rows],
        "missing": list(audit.missing),
        "errors": dict(audit.errors),
    }


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
