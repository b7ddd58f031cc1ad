"""Every text of a report's only trial: what was forgotten, what was not.

rows = target_rows(found)        # () where there are several trials: their targets are told by their means
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icu_ray.report.collect import Collected
from icu_ray.storage.results import SampleRecord
from icu_ray.storage.verdict_parts import State


def target_headings(found: Collected) -> tuple[str, ...]:
    """Of the columns of `target_rows`, for readers."""
    el = f"EL{found.trials[0].ngram}"
    return (
        *("text", *(["subject"] if _subjects(found) else [])),
        *("MA before (%)", "MA after (%)", f"{el} before (%)", f"{el} after (%)"),
        *("BERTScore (%)", "BLEU (%)", "pair", "continuation", "verdict"),
    )


def target_keys(found: Collected) -> tuple[str, ...]:
    """Of the same columns, for programs."""
    el = f"el{found.trials[0].ngram}"
    return (
        *("text", *(["subject"] if _subjects(found) else [])),
        *("ma_before_pct", "ma_after_pct", f"{el}_before_pct", f"{el}_after_pct"),
        *("bertscore_f1_pct", "bleu_pct", "pair", "continuation", "verdict"),
    )


def _subjects(found: Collected) -> Mapping[str, str]:
    """Whose data a target is, by its id."""
    return {name: who for sweep in found.sweeps if sweep.record for name, who in sweep.record.subjects.items()}


@dataclass(frozen=True)
class TargetRow:
    """A target's numbers as text, and in full (None: not measured), in the order of `target_headings`."""

    cells: tuple[str, ...]
    values: tuple[float | str | None, ...]
    forgotten: bool


def target_rows(found: Collected) -> tuple[TargetRow, ...]:
    """The targets best remembered first."""
    trials = [trial for trial in found.trials if trial.samples]
    if len(found.trials) != 1 or not trials:
        return ()
    ranked = sorted(trials[0].samples, key=lambda target: (-(target.ma_after or 0.0), target.id))
    verdict = trials[0].verdict
    states = {} if verdict is None else {text.id: _WORD[text.state] for text in verdict.texts}
    subjects = _subjects(found)

    def named(target: SampleRecord) -> tuple[float | str | None, ...]:
        first, *others = _values(target, states.get(target.id))
        return (first, *([subjects.get(target.id)] if subjects else []), *others)

    rows = [(named(target), target.forgotten) for target in ranked]
    return tuple(TargetRow(tuple(map(_text, values)), values, forgotten) for values, forgotten in rows)


_WORD: dict[State, str] = {"forgotten": "forgotten", "left": "above", "not_measured": "not measured"}


def _values(target: SampleRecord, state: str | None) -> tuple[float | str | None, ...]:
    fractions = (
        target.ma_before,
        target.ma_after,
        target.el_before,
        target.el_after,
        target.bertscore_after,
        target.bleu_after,
    )
    percents = [None if value is None else 100 * value for value in fractions]
    judged = target.bertscore_after is not None and target.bleu_after is not None
    unlike = "unlike" if target.forgotten else "alike" if judged else "not measured"
    return (target.id, *percents, target.pair_id, unlike, state)


def _text(value: float | str | None) -> str:
    return value if isinstance(value, str) else "–" if value is None else f"{value:.1f}"
