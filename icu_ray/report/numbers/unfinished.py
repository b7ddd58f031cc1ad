"""Trials that have a result, and lack the evaluation or the audit that their sweep asks for: it was interrupted.

unfinished(found)      # ['3 of 9 trials are not wholly evaluated yet, though the config asks for it: icu-s0, ...']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icu_ray.config.auditing import ATTACK_NAMES
from icu_ray.report.collect import Collected, ReportedTrial
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.results import ENDED_EARLY

_NAMED = 5


def unfinished(found: Collected) -> list[str]:
    """A sentence for each sweep and each of both that is incomplete; numbers of these trials are in no table."""
    said = []
    for sweep in found.sweeps:
        config = {} if sweep.record is None else sweep.record.config
        own = [
            trial
            for trial in found.trials
            if (trial.storage, trial.sweep) == (sweep.storage, sweep.name)
            and trial.planned
            and trial.measured is not None
            and trial.measured.reason != ENDED_EARLY  # which leaves no model
        ]
        for what, lacking in _lacking(config, own):
            if lacking:
                names = ", ".join(trial.name for trial in lacking[:_NAMED])
                more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
                several = "is" if len(lacking) == 1 else "are"
                said.append(
                    f"{len(lacking)} of {len(own)} trials with a result {several} not wholly {what} yet, though the "
                    f"config asks for it: {names}{more}. The same command continues it, where models were kept"
                )
    return said


def _lacking(config: Mapping[str, Any], trials: Sequence[ReportedTrial]) -> Iterator[tuple[str, list[ReportedTrial]]]:
    evaluation, audit = config.get("evaluation") or {}, config.get("audit") or {}
    if evaluation.get("suites") or evaluation.get("tasks"):
        yield "evaluated", [trial for trial in trials if trial.evaluation is None or trial.evaluation.errors]
    asked = set(audit.get("attacks") or ())
    asked = set(ATTACK_NAMES) if "all" in asked else asked
    if asked:
        yield "audited", [trial for trial in trials if _audit_lacks(trial.audit, asked)]


def _audit_lacks(audit: TrialAudit | None, asked: set[str]) -> bool:
    return audit is None or bool(asked - set(audit.attacks) or audit.before.errors or audit.after.errors)
