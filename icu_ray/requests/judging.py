"""Whether an attempt's model can be given out, and which of its requests are done by it.

    judged = judge(folder, state, attempt, config, done)
    judged.reasons                              # why it is not acceptable; [] where it is

It is where the trial is a success, no earlier request comes back, the held-out perplexity keeps its limit against the
first original, and at least one request is below the thresholds by its own means: those of the trial, which measures in
the precision that it trains in, and those of the version, which is asked in fp32 as it will be by later runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from icu_ray.config import RecordsData, SweepConfig
from icu_ray.requests.ledger_state import Attempt, LedgerState, Request
from icu_ray.requests.ledger_texts import checked, texts_file
from icu_ray.requests.next_try import NextTry
from icu_ray.requests.record import in_percent, read_record
from icu_ray.requests.regression import (
    ASKED_IN,
    Answers,
    Question,
    ask,
    came_back,
    measure_told,
    still_forgotten,
    thresholds_of_entry,
)
from icu_ray.requests.unlearn import Unlearned
from icu_ray.storage.results import SampleRecord, TrialEvaluation, TrialResult
from icu_ray.storage.thresholds import Thresholds
from icu_ray.storage.trial_files import read_evaluation, read_samples
from icu_ray.storage.verdict import Verdict, verdict_of


@dataclass
class Judged:
    """What was found of an attempt whose trial has ended. reasons: why it is not acceptable; [] where it is.

    own: the verdict of each request by itself. names: (request, text id) by the id that the trial knew a text by.
    asked: by request, what the new model knows of it. record: of the run. purged: requests that cannot be asked. trial:
    its id. next: what to try next beside what the trial suggests.
    """

    own: Mapping[str, Verdict]
    names: Mapping[str, tuple[str, str]]
    measure: Mapping[str, Any]
    record: Mapping[str, Any]
    purged: tuple[Request, ...] = ()
    reasons: list[str] = field(default_factory=list)
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    trial: str = ""
    next: list[NextTry] = field(default_factory=list)

    def is_done(self, request: str) -> bool:
        """Whether a request of the attempt is forgotten, by the trial and by what its model was asked."""
        return request in self.asked and self.asked[request]["forgotten"] is True


def names_of(state: LedgerState, attempt: Attempt, config: SweepConfig) -> dict[str, tuple[str, str]]:
    """(request, its text's own id) by the id that a trial over several requests knows a text by."""
    texts = [(name, text["id"]) for name in attempt.requests for text in state.requests[name].texts]
    named = isinstance(config.data, RecordsData) and config.data.id_column is not None
    return {
        f"{request}/{text}" if named else f"forget-{place}": (request, text)
        for place, (request, text) in enumerate(texts, start=1)
    }


def own_verdict(
    result: TrialResult,
    samples: Sequence[SampleRecord],
    evaluation: TrialEvaluation | None,
    names: Mapping[str, tuple[str, str]],
    request: str,
) -> Verdict:
    """The verdict over the texts of one request, by their own means."""
    own = [sample for sample in samples if names[sample.id][0] == request]
    result = _of_own(result, own)
    verdict = verdict_of(result, [replace(each, id=names[each.id][1]) for each in own], evaluation)
    assert verdict is not None
    return verdict


def _of_own(result: TrialResult, own: Sequence[SampleRecord]) -> TrialResult:
    """A result whose MA and EL are those of some of its texts."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    assert result.after is not None
    after = replace(result.after, ma=mean([s.ma_after for s in own]), el=mean([s.el_after for s in own]))
    before = result.before
    if before is not None:
        before = replace(before, ma=mean([s.ma_before for s in own]), el=mean([s.el_before for s in own]))
    return replace(result, before=before, after=after, reason=f"{result.reason} (all requests of the run together)")


def judge(
    folder: Path,
    state: LedgerState,
    attempt: Attempt,
    config: SweepConfig,
    done: Unlearned,
    say: Callable[[str], None],
) -> Judged:
    """Whether the attempt's model can be given out, and for which requests."""
    result, verdict = done.result, done.verdict
    assert result is not None and verdict is not None and done.paths is not None
    samples, evaluation = read_samples(done.paths), read_evaluation(done.paths)
    names = names_of(state, attempt, config)
    own = {name: own_verdict(result, samples, evaluation, names, name) for name in attempt.requests}
    record = read_record(done.folder / done.run) or {}
    earlier = [state.requests[name] for name in state.covers(attempt.base)]
    purged = [each for each in earlier if not each.held]
    judged = Judged(own, names, measure_told(config), record, tuple(purged), trial=result.trial_id)
    if not verdict.success:
        judged.reasons.append(verdict.headline.removeprefix("NOT acceptable: ").removesuffix("."))
        return judged
    model = Path(done.paths.model)
    held = [each.id for each in earlier if each.held]
    say(f"asking the texts of {len(held)} earlier requests again")
    measures = {name: state.attempts[v.attempt].ended for v in state.lineage(attempt.base) for name in v.requests}
    questions = [_question(folder, state, name, (measures[name] or {})["measure"]) for name in held]
    questions += [_question(folder, state, name, judged.measure) for name in attempt.requests]
    answers = ask(str(model), questions, config.models[0].trust_remote_code)
    assert result.thresholds is not None
    for name in held:
        accepted = (measures[name] or {})["asked"][name]
        known = judged.asked[name] = _earlier_told(state, name, answers[name], accepted)
        if known["forgotten"] is False or known["came_back"]:
            judged.reasons.append(_back_said(name, known, f"EL{accepted['limits']['ngram']}"))
        elif known["forgotten"] is None:
            judged.reasons.append(f"whether {name} is still forgotten could not be measured")
    precision = config.models[0].precision
    for name in attempt.requests:
        judged.asked[name] = _own_told(own[name], answers[name], result.thresholds, precision)
    judged.cost = _cost(state, record, attempt.base, config.stop.max_ppl_ratio)
    ratio, limit = judged.cost["ratio"], judged.cost["limit"]
    if ratio is not None and limit is not None and ratio > limit:
        judged.reasons.append(
            f"held-out perplexity is {ratio:.2f} times that of the first original (limit {limit:g}): too costly"
        )
    # Without held-out texts none can be measured by this ledger's settings, which `init` has said.
    if ratio is None and limit is not None and record["heldout"]["rows"]:
        why = f" ({judged.cost['why_not']})" if judged.cost.get("why_not") else ""
        judged.reasons.append(
            f"what it costs against the first original could not be measured{why}, and the limit is {limit:g} "
            "(stop.max_ppl_ratio)"
        )
    left = [name for name in attempt.requests if not judged.is_done(name)]
    none_done = len(left) == len(attempt.requests)
    # Of several requests one that is not done may wait on, but not one that was done before.
    against = [name for name in left if none_done or state.requests[name].version is not None]
    apart = [name for name in against if own[name].together]
    for name in against:
        if name in apart:
            judged.reasons.append(_apart_said(name, judged.asked[name], own[name].heldout.ngram))
        elif state.requests[name].version is not None:
            judged.reasons.append(f"{name}, which was done, is not below the thresholds by itself")
    if none_done and not apart:
        judged.reasons.append("all texts together are below the thresholds, those of no single request are")
    if apart and precision != ASKED_IN:
        changes = {"models.0.precision": ASKED_IN}
        judged.next.append(NextTry("have the trial measure in the precision in which versions are asked", changes))
    return judged


def _question(folder: Path, state: LedgerState, name: str, measure: Mapping[str, Any]) -> Question:
    checked(folder, state, [name])
    return Question(name, texts_file(folder, name), state.requests[name].form, measure)


def _means(answers: Answers) -> dict[str, Any]:
    return {"ma": answers.ma, "el": answers.el, "forget_loss": answers.forget_loss}


def _own_told(own: Verdict, answers: Answers, limits: Thresholds, precision: str) -> dict[str, Any]:
    """What the new model knows of a request of the attempt.

    forgotten: by its trial, and by the rule by which later runs judge what they ask again: what that would refuse at
    once is not done.
    """
    again = still_forgotten(answers, limits, (answers.ma, answers.el))
    return {
        **_means(answers),
        "earlier": False,
        "forgotten": again if own.together else False,
        "in_trial": {"ma": own.ma, "el": own.el, "forgotten": own.together, "precision": precision},
        "limits": asdict(limits),
        "each": [list(row) for row in answers.each],
    }


def _apart_said(name: str, told: Mapping[str, Any], ngram: int) -> str:
    """That the trial found a request forgotten, and its model, asked again, does not bear it out."""
    trial = told["in_trial"]
    word = "could not be measured" if told["forgotten"] is None else "are not"
    return (
        f"{name}: its means were below the thresholds in the trial, measured in {trial['precision']} "
        f"({_means_said(trial, ngram)}), and {word} when the model is asked again in {ASKED_IN} "
        f"({_means_said(told, ngram)})"
    )


def _means_said(told: Mapping[str, Any], ngram: int) -> str:
    return f"MA {in_percent(told['ma'])}, EL{ngram} {in_percent(told['el'])}"


def _earlier_told(state: LedgerState, name: str, answers: Answers, accepted: Mapping[str, Any]) -> dict[str, Any]:
    limits = thresholds_of_entry(accepted["limits"])
    texts = [text["id"] for text in state.requests[name].texts]
    return {
        **_means(answers),
        "earlier": True,
        "forgotten": still_forgotten(answers, limits, (accepted["ma"], accepted["el"])),
        "accepted": {key: accepted[key] for key in ("ma", "el", "forget_loss")},
        "came_back": came_back(answers, limits, accepted["each"], texts),
    }


def _back_said(name: str, told: Mapping[str, Any], el: str) -> str:
    then = told["accepted"]
    return (
        f"{name} comes back: MA {in_percent(then['ma'])} -> {in_percent(told['ma'])}, {el} {in_percent(then['el'])} -> "
        f"{in_percent(told['el'])}; {len(told['came_back'])} of its texts were forgotten and are not any more"
    )


def _cost(state: LedgerState, record: Mapping[str, Any], base: int, limit: float | None) -> dict[str, Any]:
    """Held-out perplexity against the first original, which the request's record holds.

    Where the first original is not there any more, by what the ledger has of it: the ratio at which the base was
    accepted, times that of this run to its base.
    """
    told, first = record["cost"]["heldout_perplexity"], record["cost"]["first_original"]
    if base == 0:
        return {"original": told["before"], "after": told["after"], "ratio": told["ratio"], "limit": limit}
    known = {"original": first["perplexity"], "after": told["after"], "ratio": first["ratio"], "limit": limit}
    if first["ratio"] is not None:
        return known
    then = (state.attempts[state.versions[base].attempt].ended or {})["cost"].get("ratio")
    if then is None or told["ratio"] is None or told["after"] is None:
        return {**known, "why_not": first["why_not"]}
    ratio = then * told["ratio"]
    return {**known, "original": told["after"] / ratio, "ratio": ratio, "by_the_ledger": first["why_not"]}
