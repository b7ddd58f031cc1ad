"""What audit and benchmarks found, a line a trial, for the end of a sweep's tables.

closing_lines(summary)      # ['Audit, icu-small-s0: 6 of 12 rows came back, control 0 of 12 (relearn, ...).']
"""

from __future__ import annotations

from collections.abc import Mapping

from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.report.numbers.summary import Summary
from icu_ray.storage.results import NOTHING_UNLEARNED, TrialResult

MOST = 5
"""Trials of which a line is printed; of the others the report tells."""


def closing_lines(summary: Summary) -> list[str]:
    """Of trials that unlearned something: first those of which most came back, then the benchmarks' own columns."""
    unlearned = [each for each in summary.results if each.reason not in NOTHING_UNLEARNED]
    return [*_audits(summary, unlearned), *_benchmarks(summary, unlearned)]


def _audits(summary: Summary, results: list[TrialResult]) -> list[str]:
    found = [(each, summary.audits[each.trial_id].after) for each in results if each.trial_id in summary.audits]
    # What is not known may be the worst of all.
    found.sort(key=lambda each: (each[1].share is not None, -(each[1].share or 0.0)))
    lines = [f"Audit, {result.name}: {audit.said()}." for result, audit in found[:MOST]]
    if found[MOST:]:
        shares = [audit.share for _, audit in found[MOST:]]
        unknown = f", and in {shares.count(None)} of which it is not known" if None in shares else ""
        back = sum(bool(share) for share in shares)
        lines.append(f"Audit of {len(shares)} more trials, in {back} of which rows came back{unknown}: see the report.")
    return lines


def _benchmarks(summary: Summary, results: list[TrialResult]) -> list[str]:
    lines = []
    for name, benchmark in BENCHMARKS.items():
        columns = [column if "/" in column else f"{name}/{column}" for column in benchmark.reported]
        said = []
        for result in results:
            evaluation = summary.evaluations.get(result.trial_id)
            numbers = "" if evaluation is None else _numbers(evaluation.after, columns)
            said += [f"{benchmark.title}, {result.name}: {numbers}."] if numbers else []
        lines += said[:MOST]
        if said[MOST:]:
            lines.append(f"{benchmark.title} of {len(said) - MOST} more trials: see the report.")
    return lines


def _numbers(metrics: Mapping[str, float | None], columns: list[str]) -> str:
    """'' where none was measured; one that was asked for and is not known says so."""
    if all(metrics.get(column) is None for column in columns):
        return ""
    asked = [(column.rpartition("/")[2], metrics[column]) for column in columns if column in metrics]
    return ", ".join(f"{name} {'not measured' if value is None else f'{value:.3g}'}" for name, value in asked)
