"""What to try next after a request that was no success, from what was seen in its epochs. Plain values.

for each in next_tries(verdict, history, settings):
    each.why, each.changes                                   # "...", {"stop.max_epochs": 100}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icu_ray import methods
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.results import EpochRecord
from icu_ray.storage.verdict import Verdict

FALLING = 0.005
"""MA or EL still falls when an epoch, over the last three, took so much of it away on average."""


@dataclass(frozen=True)
class NextTry:
    """Another attempt. changes: values by config key; 'beta' stands for the option --beta."""

    why: str
    changes: Mapping[str, float | int | str]


def next_tries(verdict: Verdict, history: Sequence[EpochRecord], settings: TrialSettings) -> tuple[NextTry, ...]:
    """The most promising first; nothing after a success, or where nothing was trained."""
    if verdict.outcome in ("success", "failed") or len(history) < 2:
        return ()
    if methods.method_class(settings.method).fine_tunes:
        return ()  # its settings are its own, and none of them is always the one to change
    if verdict.outcome != "not_forgotten" or not _keeps_limit(verdict, history[-1]):
        # After a collapse within the limit, what kept the limit is no better.
        offered = settings.stop.keep == "last" and verdict.outcome != "collapsed"
        earlier = _within_limit(verdict, history) if offered else None
        return (_gentler(settings, _spoilt(verdict)), *(() if earlier is None else (earlier,)))
    more = {"stop.max_epochs": 2 * settings.max_epochs}
    if settings.stop.on_empty and history[-1].active == 0:
        if settings.filter.rule == "or":
            why = "the filter left no text to train on: leave a text out only where BERTScore and BLEU are both low"
            return (NextTry(why, {"filter.rule": "and"}),)
        return (NextTry("the filter left no text to train on: switch it off", {"filter.bertscore": 0.0}),)
    el = f"EL{settings.el.ngram}"
    if _falling(history):
        return (NextTry(f"MA or {el} was still falling: give it more epochs", more),)
    return (NextTry(f"MA and {el} no longer fell: take larger steps", {"optim.lr": 2 * settings.lr}),)


def _spoilt(verdict: Verdict) -> str:
    """What is wrong with a model that forgot, or cost too much before it did."""
    if verdict.outcome != "collapsed":
        return "it cost too much"
    if verdict.cost.ppl_before is not None and verdict.cost.ppl_after is None:
        return "its perplexity is not a finite number"
    return "it only repeats itself" + (", though the cost limit was kept" if verdict.cost.within else "")


def _gentler(settings: TrialSettings, why: str) -> NextTry:
    changes: dict[str, float | int | str] = {"optim.lr": settings.lr / 2}
    said = "smaller steps"
    if methods.method_class(settings.method).uses_beta:
        changes = {"beta": 2 * settings.beta or 1.0, **changes}
        said = "a larger beta, which keeps the model near the original, and smaller steps"
    return NextTry(f"{why}: try {said}", changes)


def _within_limit(verdict: Verdict, history: Sequence[EpochRecord]) -> NextTry | None:
    """The last epoch before the last whose held-out perplexity kept the limit, as a model to have."""
    first = verdict.cost.ppl_before
    if first is None or verdict.cost.limit is None:
        return None
    for record in reversed(history[1:-1]):
        ppl, ma = record.scores.ppl_heldout, record.scores.ma
        if ppl is not None and _keeps_limit(verdict, record):
            reached = "" if ma is None else f", its MA {100 * ma:.1f} %"
            why = f"epoch {record.epoch} is the last that kept the limit: its perplexity ratio is {ppl / first:.2f}"
            return NextTry(why + reached, {"stop.max_epochs": record.epoch})
    return None


def _keeps_limit(verdict: Verdict, record: EpochRecord) -> bool:
    """Whether an epoch's held-out perplexity does; where there is no limit, or nothing held out, every one does."""
    first, limit, ppl = verdict.cost.ppl_before, verdict.cost.limit, record.scores.ppl_heldout
    return first is None or limit is None or (ppl is not None and ppl / first <= limit)


def _falling(history: Sequence[EpochRecord]) -> bool:
    last, earlier = history[-1].scores, history[max(0, len(history) - 4)].scores
    epochs = min(3, len(history) - 1)
    pairs = ((earlier.ma, last.ma), (earlier.el, last.el))
    return any(a is not None and b is not None and a - b > FALLING * epochs for a, b in pairs)
