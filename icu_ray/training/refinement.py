"""Iterative unlearning refinement (section IV-D): which targets are forgotten, and when to stop.

    active = refine(active, bertscore_f1, bleu, config.filter)      # after every epoch
    decision = decide(epoch, scores, active, config.stop)           # Decision(stop=True, status="finished", ...)

numpy only. The rule is the same for every method; where paper and code differ it is an option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import FilterConfig, StopConfig
from icu_ray.metrics.extraction_likelihood import unmeasured_text
from icu_ray.plan.thresholds import thresholds_of
from icu_ray.storage.results import Scores, Status
from icu_ray.storage.thresholds import Thresholds

Flags = NDArray[np.bool_]

SKIPS_IN_A_ROW = 3
"""A trial has diverged after so many steps in a row whose gradients were not finite."""


def forgotten(bertscore_f1: NDArray[np.float64], bleu: NDArray[np.float64], settings: FilterConfig) -> Flags:
    """(N,) True where the model's candidate no longer resembles the reference.

    The paper lists both conditions; the authors' code joins them by 'or'. A candidate that one of the scores cannot
    judge (NaN) is not called forgotten. By rule never, none is.
    """
    if settings.rule == "never":
        return np.zeros(len(bertscore_f1), dtype=bool)
    unlike_in_meaning = bertscore_f1 < settings.bertscore
    unlike_in_words = bleu < settings.bleu
    unlike = unlike_in_meaning | unlike_in_words if settings.rule == "or" else unlike_in_meaning & unlike_in_words
    return unlike & ~np.isnan(bertscore_f1) & ~np.isnan(bleu)


def refine(
    active: Flags, bertscore_f1: NDArray[np.float64], bleu: NDArray[np.float64], settings: FilterConfig
) -> Flags:
    """(N,) True for targets that go on being unlearned. sticky: once forgotten, always left out."""
    remaining = ~forgotten(bertscore_f1, bleu, settings)
    return active & remaining if settings.sticky else remaining


@dataclass(frozen=True)
class Decision:
    """Whether a trial ends after this epoch, and how."""

    stop: bool
    status: Status | None = None
    reason: str = ""


def below_thresholds(scores: Scores, thresholds: Thresholds) -> bool:
    """The paper's criterion: EL under its threshold and MA under its (rule 'or': either); not measured is not under."""
    return thresholds.below(scores.ma, scores.el)


def el_decides(ma: float, thresholds: Thresholds) -> bool:
    """Whether EL can change the decision at this MA; when not, it need not be decoded."""
    return thresholds.ma.holds(ma) == (thresholds.rule == "and")


def at_start(before: Scores, thresholds: Thresholds) -> Decision:
    """Before the first epoch: fail where the original model cannot be measured, for then no epoch can say anything."""
    if before.forget_loss is None:
        why = "the original model cannot be measured on these texts: its scores are not finite, or no token is scored"
        return Decision(True, "failed", why)
    for key, limit, what in (("ma", thresholds.ma, "MA"), ("el", thresholds.el, f"EL{thresholds.ngram}")):
        if not math.isfinite(limit.value):
            why = f"stop.{key}=heldout: {what} cannot be measured on the held-out texts, so there is no threshold"
            return Decision(True, "failed", why)
    return Decision(False)


def decide(
    epoch: int,
    scores: Scores,
    active: Flags,
    settings: StopConfig,
    max_epochs: int,
    *,
    thresholds: Thresholds | None = None,
    skipped_in_a_row: int = 0,
    steps: int = 0,
    came_back: float | None = None,
) -> Decision:
    """After epoch `epoch` >= 1: stop when forgotten, when no target is left, diverged, or at the limit.

    By rule 'epochs', at the limit or diverged alone. thresholds: None: the numbers of `settings`. steps: of all epochs.
    skipped_in_a_row: the last steps that changed nothing, because a gradient was not finite. came_back: the part of the
    texts that an attack brought back; with stop.audited, a trial goes on with what is left while that is above 0.
    """
    if skipped_in_a_row >= SKIPS_IN_A_ROW:
        return Decision(
            True,
            "failed",
            f"diverged: the gradients of {skipped_in_a_row} steps in a row were not finite, the last in epoch {epoch}",
        )
    thresholds = thresholds or thresholds_of(settings)
    measured = _scores_text(scores, thresholds, len(active))
    if scores.forget_loss is None or not math.isfinite(scores.forget_loss):
        return Decision(True, "failed", f"diverged: the forget loss is not finite after epoch {epoch}")
    out_of_steps = settings.max_steps is not None and steps >= settings.max_steps
    at_limit = epoch >= max_epochs or out_of_steps
    early = settings.rule != "epochs"
    nothing_left = early and settings.on_empty and not active.any()
    if (early or at_limit) and below_thresholds(scores, thresholds):
        if holds(came_back, settings) or at_limit or nothing_left:
            back = f"; {came_back:.0%} of the texts come back under attack" if came_back else ""
            return Decision(True, "finished", f"after epoch {epoch}: {measured}{back}")
        return Decision(False)
    if nothing_left:
        return Decision(True, "not_forgotten", f"no target is left to unlearn after epoch {epoch}, but {measured}")
    if at_limit:
        limit = f"step limit {settings.max_steps}" if out_of_steps else f"epoch limit {max_epochs}"
        return Decision(True, "not_forgotten", f"{limit} reached with {measured}")
    return Decision(False)


def holds(came_back: float | None, settings: StopConfig) -> bool:
    """Whether a trial whose scores are below the thresholds may end, as far as stop.audited says."""
    return not settings.audited or came_back == 0


def with_best(decision: Decision, best: int, scores: Scores | None, thresholds: Thresholds, texts: int) -> Decision:
    """How a trial ends that leaves the model of an earlier epoch; scores: of that one, None where it is gone."""
    ended = decision.reason
    if decision.status == "finished" and thresholds.max_ppl_ratio is not None:
        ended += f", but held-out perplexity was more than {thresholds.max_ppl_ratio:g} times what it was"
    if scores is None:
        gone = f"{decision.reason}; epoch {best} was the best, but its weights are gone, so the last epoch's are kept"
        return Decision(True, decision.status, gone)
    said = f"epoch {best} is kept as the best, with {_scores_text(scores, thresholds, texts)}; {ended}"
    return Decision(True, "finished" if below_thresholds(scores, thresholds) else "not_forgotten", said)


def _scores_text(scores: Scores, thresholds: Thresholds, texts: int) -> str:
    parts = [f"MA {_percent(scores.ma)} (threshold {thresholds.ma.value:.2%})"]
    if scores.el is not None:
        parts.append(f"EL{thresholds.ngram} {_percent(scores.el)} (threshold {thresholds.el.value:.2%})")
    unmeasured = unmeasured_text(scores.el_unmeasured, texts, thresholds.ngram)
    return ", ".join(parts) + (f"; {unmeasured}" if unmeasured else "")


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.2%}"
