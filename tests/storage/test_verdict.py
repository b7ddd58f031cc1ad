"""The answer about an unlearned model: one rule, which cannot contradict itself.

Needs: nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.storage.results import SampleRecord, Scores, TrialEvaluation, TrialResult
from icu_ray.storage.thresholds import Limit, Thresholds
from icu_ray.storage.verdict import OUTCOME_WORD, Verdict, result_outcome, verdict_json, verdict_of

SHARE = st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])
PERPLEXITY = st.none() | st.floats(1, 1e4)
LIMITS = st.builds(Limit, SHARE, st.sampled_from(["number", "heldout"]))
THRESHOLDS = st.builds(
    Thresholds, LIMITS, LIMITS, st.sampled_from(["and", "or"]), st.none() | st.floats(1, 10), st.integers(1, 10)
)
TEXTS = st.lists(st.tuples(st.none() | SHARE, st.none() | SHARE), min_size=1, max_size=6)
BEFORE = Scores(0.95, 0.8, 0.1, 0.9, 0.8, 4.0, 0.8, 20.0, ma_heldout=0.5, el_heldout=0.2, distinct_heldout=0.7)
LIMIT = Thresholds(Limit(0.5, "heldout", 0.08, 16), Limit(0.2, "heldout", 0.1, 16), "and", 1.5, 5, 7)


def mean(values: list[float | None]) -> float | None:
    """As a trial makes it: what was not measured is in no mean."""
    measured = [value for value in values if value is not None]
    return float(np.asarray(measured).mean()) if measured else None


def sample(name: str, ma: float | None, el: float | None) -> SampleRecord:
    return SampleRecord(name, "p", "r", "b", "a", 1.0, ma, 0.5, 0.5, False, el_after=el)


def result(limits: Thresholds | None, after: Scores | None, status: str = "finished") -> TrialResult:
    ended = TrialResult("i", "n", "m", "icu", 0, {}, status, "why", 3, BEFORE, after, {})  # type: ignore[arg-type]
    return replace(ended, thresholds=limits)


def judge(
    texts: list[tuple[float | None, float | None]], limits: Thresholds, ppl: float | None = 20.0, said: float = 0.7
) -> Verdict:
    samples = [sample(f"t{n}", ma, el) for n, (ma, el) in enumerate(texts)]
    means = mean([ma for ma, _ in texts]), mean([el for _, el in texts])
    after = Scores(*means, 2.0, 0.3, 0.1, 3.0, 0.5, ppl, distinct_heldout=said)
    status = "finished" if limits.below(*means) else "not_forgotten"
    verdict = verdict_of(result(limits, after, status), samples)
    assert verdict is not None
    return verdict


@given(TEXTS, THRESHOLDS, PERPLEXITY, st.floats(0, 1))
def test_it_cannot_contradict_itself(
    texts: list[tuple[float | None, float | None]], limits: Thresholds, ppl: float | None, said: float
) -> None:
    verdict = judge(texts, limits, ppl, said)
    # Every text is in one state, and what is said of each agrees with what is said of all.
    states = [verdict.ids(state) for state in ("forgotten", "left", "not_measured")]
    assert sorted(name for ids in states for name in ids) == [f"t{n}" for n in range(len(texts))]
    assert verdict.each == (len(states[0]) == len(texts))
    assert not verdict.each or verdict.together
    if not verdict.together:
        assert states[1] or states[2]
    # By rule 'and', what is left lies above a threshold, and what is forgotten above none.
    for text, (ma, el) in zip(verdict.texts, texts, strict=True):
        if limits.rule == "and":
            assert (text.state == "forgotten") == limits.below(ma, el)
            above = (ma is not None and not limits.ma.holds(ma)) or (el is not None and not limits.el.holds(el))
            assert (text.state == "left") == above
        elif text.state == "forgotten":
            assert limits.below(ma, el)
    # A success is forgotten, within the limit and no wreck; anything else has its one reason.
    assert verdict.success == (verdict.together and verdict.cost.within is not False and not verdict.speech.collapsed)
    assert (verdict.outcome == "not_forgotten") == (not verdict.together)
    nothing = verdict.headline.startswith("There was nothing to forget")
    assert (verdict.headline.startswith("Forgotten") or nothing) == verdict.success
    assert not nothing or (verdict.already and not states[1] and not states[2])
    if limits.max_ppl_ratio is not None and (ppl is None or ppl / 20.0 > limits.max_ppl_ratio):
        assert not verdict.success
    told = verdict_json(verdict)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["success"], told["left"]) == (verdict.success, list(states[1]))
    assert told["forgotten"]["counts"] == {
        name: len(ids) for name, ids in zip(("forgotten", "left", "not_measured"), states, strict=True)
    }


@pytest.mark.parametrize(
    ("texts", "ppl", "said", "outcome", "headline"),
    [
        ([(0.4, 0.1)] * 2, 26.0, 0.6, "success", "Forgotten."),
        ([(0.4, 0.1), (0.51, 0.1)], 26.0, 0.6, "success", "Forgotten on average; 1 of 2 texts is still above"),
        ([(0.4, 0.1), (0.4, None)], 26.0, 0.6, "success", "Forgotten on average; 1 of 2 texts could not be measured."),
        ([(0.9, 0.1)] * 2, 26.0, 0.6, "not_forgotten", "NOT forgotten: why"),
        ([(0.4, None)] * 2, 26.0, 0.6, "not_forgotten", "NOT forgotten: why"),
        (
            [(0.4, 0.1)] * 2,
            30.2,
            0.6,
            "too_costly",
            "NOT acceptable: the texts are forgotten, but held-out perplexity ",
        ),
        (
            [(0.4, 0.1)] * 2,
            None,
            0.6,
            "too_costly",
            "NOT acceptable: the texts are forgotten, but held-out perplexity ",
        ),
        ([(0.4, 0.1)] * 2, 26.0, 0.2, "collapsed", "NOT acceptable: the texts are forgotten, but the model has coll"),
    ],
)
def test_each_outcome_in_words(
    texts: list[tuple[float | None, float | None]], ppl: float | None, said: float, outcome: str, headline: str
) -> None:
    verdict = judge(texts, LIMIT, ppl, said)
    assert verdict.outcome == outcome and verdict.headline.startswith(headline), verdict.headline


def test_the_ruined_model_of_the_issue_is_no_success() -> None:
    before = replace(BEFORE, ppl_heldout=20.8)
    after = Scores(0.3, 0.02, 4.0, 0.2, 0.0, 1.0, 0.2, 496.6, distinct_heldout=0.1)
    samples = [sample("zu", 0.3, 0.02)]
    limits = Thresholds(Limit(0.5994), Limit(0.0499), "and", 1.5, 5)
    verdict = verdict_of(replace(result(limits, after), before=before), samples)
    assert verdict is not None and (verdict.outcome, verdict.each) == ("too_costly", True)
    said = dict(verdict.lines)["at what cost?"]
    assert said[0] == "held-out perplexity is 23.88 times what it was (limit 1.5): 20.80 -> 496.60"
    assert said[1].startswith("the model has collapsed: after the beginnings of held-out texts it repeats itself")
    paper = verdict_of(replace(result(replace(limits, max_ppl_ratio=None), after), before=before), samples)
    assert paper is not None and paper.outcome == "collapsed" and paper.cost.within is None


def test_lines_say_where_thresholds_come_from_and_what_is_left() -> None:
    verdict = judge([(0.4, 0.1), (0.55, 0.1), (0.1, None)], LIMIT)
    lines = dict(verdict.lines)
    assert lines["thresholds"] == (
        "MA at most 50.00 % (spread 8.0) and EL5 at most 20.00 % (spread 10.0)",
        "MA and EL5: the mean of 16 held-out texts before unlearning",
        "of these held-out texts, 7 are above the thresholds",
    )
    assert lines["what is left?"] == ("1 text above the thresholds: t1", "1 text could not be measured: t2")
    numbers = judge([(0.4, 0.1)], Thresholds(Limit(0.5994), Limit(0.0499)))
    assert dict(numbers.lines)["thresholds"] == (
        "MA below 59.94 % and EL10 below 4.99 %",
        "fixed beforehand, not taken from texts that the model never read",
    )


def test_held_out_texts_are_told_before_and_after() -> None:
    before = replace(BEFORE, ma_heldout=0.5432, el_heldout=0.2345, heldout_texts=16, ngram=5)
    after = replace(before, ma=0.4, el=0.1, ma_heldout=0.5, el_heldout=None)
    mixed = replace(LIMIT, ma=Limit(0.5994))
    said = {}
    for name, limits in (("heldout", LIMIT), ("mixed", mixed), ("numbers", replace(mixed, el=Limit(0.0499)))):
        verdict = verdict_of(replace(result(limits, after), before=before))
        assert verdict is not None
        said[name] = dict(verdict.lines)["held-out texts"]
        written = verdict_json(verdict)
        assert written["heldout"]["ma_after"] == 0.5
        keys = {key for part in ("forgotten", "heldout", "thresholds") for key in written[part]}
        assert {"el5", "el5_before", "el5_after"} <= keys and not {"el", "el_before", "el_after", "ngram"} & keys
    assert said["heldout"] == (
        "16 texts: mean MA 54.32 % -> 50.00 %, mean EL5 23.45 % -> not measured",
        "the thresholds of MA and EL5 come from them",
    )
    assert said["mixed"][1] == "the threshold of EL5 comes from them"
    assert said["numbers"][1] == "the thresholds do not come from them"
    # Thresholds that were fixed beforehand hide how much better than unread texts these are still known.
    known = verdict_of(replace(result(mixed, replace(after, ma=0.58, ma_heldout=0.26)), before=before))
    assert known is not None
    assert (
        "mean MA of the texts to forget is still 32 points above that of the held-out texts"
        in dict(known.lines)["held-out texts"]
    )
    assert len(said["numbers"]) == 2  # these are known no better
    few = judge([(0.4, 0.1), (0.62, 0.1)], Thresholds(Limit(0.5994), Limit(0.2)))
    assert dict(few.lines)["what is left?"][-1] == "with lower thresholds (stop.ma, stop.el) it continues"
    bare = Scores(0.1, 0.0, 1.0, 0.1, 0.1, 1.0)
    unmeasured = verdict_of(replace(result(mixed, bare), before=bare))
    assert unmeasured is not None and dict(unmeasured.lines)["held-out texts"] == ("not measured",)


def test_an_outcome_has_one_word_everywhere() -> None:
    limits = Thresholds(Limit(0.6), Limit(0.2), "and", 1.5)
    told = {}
    for name, after, status in (
        ("forgotten", replace(BEFORE, ma=0.4, el=0.1), "finished"),
        ("forgotten, too costly", replace(BEFORE, ma=0.4, el=0.1, ppl_heldout=90.0), "finished"),
        ("forgotten, but collapsed", replace(BEFORE, ma=0.4, el=0.1, distinct_heldout=0.1), "finished"),
        ("not forgotten", BEFORE, "not_forgotten"),
        ("failed", None, "failed"),
    ):
        told[name] = OUTCOME_WORD[result_outcome(result(limits, after, status))]
    assert all(name == word for name, word in told.items())
    # A result of an earlier version, which does not say its thresholds, is called what its status says.
    assert result_outcome(result(None, BEFORE)) == "success"
    assert result_outcome(result(None, BEFORE, "not_forgotten")) == "not_forgotten"


def test_what_was_not_measured_is_said() -> None:
    assert verdict_of(result(None, BEFORE)) is None  # of an earlier version
    bare = verdict_of(replace(result(LIMIT, Scores(0.1, 0.0, 1.0, 0.1, 0.1, 1.0)), before=None))
    assert bare is not None and bare.success and bare.cost.within is None and bare.speech.collapsed is None
    assert bare.headline == "Forgotten; what it cost was not measured."
    assert verdict_json(bare)["forgotten"]["each"] is None
    failed = verdict_of(result(None, None, "failed"))
    assert failed is not None and (failed.outcome, failed.headline) == ("failed", "Failed: why")
    asked = TrialEvaluation({}, ("a", "b"), {"cls/avg": 0.5}, {"cls/avg": None, "ppl/x": math.pi})
    costly = verdict_of(result(LIMIT, BEFORE), (), asked)
    assert costly is not None and costly.cost.tasks == {"cls/avg": (0.5, None), "ppl/x": (None, math.pi)}
    assert "cls/avg 50.00 % -> not measured" in dict(costly.lines)["at what cost?"]
    assert costly.already is False
