"""Tables of a sweep, from what its trials left in storage: one row a trial, one row a cell (mean and deviation).

    summary = summarise(storage, sweep)
    write_tables(summary)            # trials.csv, cells.csv, summary.json in the sweep's folder
    print_tables(summary, Console())

Fractions become percent here and nowhere else.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from icu_ray.report.numbers.columns import PAPER_COLUMNS, Column, evaluated_metrics
from icu_ray.storage.files import join, write_atomic
from icu_ray.storage.results import NOT_TRAINED, Scores, TrialEvaluation, TrialResult, to_json
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, trial_ids


@dataclass(frozen=True)
class Metric:
    """A column: its key, heading, how to read it from scores and how many decimals to show."""

    key: str
    heading: str
    read: Callable[[Scores], float | None]
    decimals: int


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


METRICS: tuple[Metric, ...] = (
    Metric("ma", "MA %", lambda s: _percent(s.ma), 1),
    Metric("el10", "EL10 %", lambda s: _percent(s.el10), 1),
    Metric("forget_loss", "forget loss", lambda s: s.forget_loss, 2),
    Metric("bertscore_f1", "BERT F1", lambda s: _percent(s.bertscore_f1), 1),
    Metric("bleu", "BLEU %", lambda s: _percent(s.bleu), 1),
    Metric("entropy", "entropy", lambda s: s.entropy, 2),
    Metric("ppl_heldout", "held-out PPL", lambda s: s.ppl_heldout, 1),
)


@dataclass(frozen=True)
class Cell:
    """All samples of one model, method and weights; values are (mean, deviation or None) by metric key."""

    model: str
    method: str
    alpha: float
    beta: float
    trials: int
    forgotten: int
    epochs: float
    before: dict[str, tuple[float, float | None] | None]
    after: dict[str, tuple[float, float | None] | None]
    ppl_ratio: tuple[float, float | None] | None


@dataclass(frozen=True)
class Summary:
    """A sweep's results; `missing` are trials that were planned and have no result. evaluations: by trial id."""

    storage: str
    sweep: str
    results: tuple[TrialResult, ...]
    cells: tuple[Cell, ...]
    missing: tuple[str, ...]
    evaluations: Mapping[str, TrialEvaluation]


def summarise(storage: str, sweep: str, planned: Sequence[tuple[str, str]] | None = None) -> Summary:
    """Read every result; planned: (trial id, name) of the trials to look for, else all that have a folder."""
    wanted = [(trial_id, trial_id) for trial_id in trial_ids(storage, sweep)] if planned is None else list(planned)
    results, missing, evaluations = [], [], {}
    for trial_id, name in wanted:
        paths = TrialPaths.of(storage, sweep, trial_id)
        result, evaluation = read_result(paths), read_evaluation(paths)
        if result is None:
            missing.append(name)
        else:
            results.append(result)
            if evaluation is not None:
                evaluations[trial_id] = evaluation
    results.sort(key=lambda r: (r.model, r.method, r.hyperparameters["alpha"], r.hyperparameters["beta"], r.sample))
    return Summary(storage, sweep, tuple(results), _cells(results), tuple(missing), evaluations)


def ppl_ratio(result: TrialResult) -> float | None:
    """Held-out perplexity after over before."""
    before, after = result.before, result.after
    if before is None or after is None or not before.ppl_heldout or after.ppl_heldout is None:
        return None
    return after.ppl_heldout / before.ppl_heldout


def _cells(results: Sequence[TrialResult]) -> tuple[Cell, ...]:
    groups: dict[tuple[str, str, float, float], list[TrialResult]] = {}
    for result in results:
        weights = result.hyperparameters
        key = (result.model, result.method, float(weights["alpha"]), float(weights["beta"]))
        groups.setdefault(key, []).append(result)
    cells = []
    for (model, method, alpha, beta), members in groups.items():
        measured = [r for r in members if r.status != "failed"]
        cells.append(
            Cell(
                model,
                method,
                alpha,
                beta,
                len(members),
                sum(r.status == "finished" for r in members),
                statistics.fmean(r.epochs for r in members),
                {m.key: _spread([m.read(r.before) for r in measured if r.before]) for m in METRICS},
                {m.key: _spread([m.read(r.after) for r in measured if r.after]) for m in METRICS},
                _spread([ppl_ratio(r) for r in measured]),
            )
        )
    return tuple(cells)


def _spread(values: Sequence[float | None]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation (None for a single value); None without values."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None


def write_tables(summary: Summary) -> str:
    """trials.csv, cells.csv and summary.json in the sweep's folder; returns that folder."""
    folder = join(summary.storage, summary.sweep)
    write_atomic(join(folder, "trials.csv"), _csv(*trial_rows(summary)))
    write_atomic(join(folder, "cells.csv"), _csv(*cell_rows(summary)))
    content = {
        "sweep": summary.sweep,
        "trials": [asdict(result) for result in summary.results],
        "cells": [asdict(cell) for cell in summary.cells],
        "missing": summary.missing,
        "evaluations": {trial_id: asdict(found) for trial_id, found in summary.evaluations.items()},
    }
    write_atomic(join(folder, "summary.json"), to_json(content, indent=2))
    return folder


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    return buffer.getvalue().encode()


def trial_rows(summary: Summary) -> tuple[list[str], list[list[object]]]:
    header = ["trial_id", "name", "model", "method", "sample", "alpha", "beta", "status", "reason", "epochs"]
    header += [f"{m.key}_{side}" for m in METRICS for side in ("before", "after")] + ["ppl_ratio", "seconds"]
    evaluated = list(dict.fromkeys(name for found in summary.evaluations.values() for name in found.after))
    header += [f"{name}_{side}" for name in evaluated for side in ("before", "after")]
    rows: list[list[object]] = []
    for r in summary.results:
        row: list[object] = [r.trial_id, r.name, r.model, r.method, r.sample]
        row += [r.hyperparameters["alpha"], r.hyperparameters["beta"], r.status, r.reason, r.epochs]
        for metric in METRICS:
            row += [None if side is None else metric.read(side) for side in (r.before, r.after)]
        found = summary.evaluations.get(r.trial_id)
        sides = ({}, {}) if found is None else (found.before, found.after)
        metrics = [side.get(name) for name in evaluated for side in sides]
        rows.append([*row, ppl_ratio(r), round(r.seconds.get("total", 0.0), 3), *metrics])
    return header, rows


def cell_rows(summary: Summary) -> tuple[list[str], list[list[object]]]:
    header = ["model", "method", "alpha", "beta", "trials", "forgotten", "epochs_mean"]
    header += [f"{m.key}_{side}_{what}" for m in METRICS for side in ("before", "after") for what in ("mean", "std")]
    header += ["ppl_ratio_mean", "ppl_ratio_std"]
    rows: list[list[object]] = []
    for cell in summary.cells:
        row: list[object] = [cell.model, cell.method, cell.alpha, cell.beta, cell.trials, cell.forgotten, cell.epochs]
        for metric in METRICS:
            for side in (cell.before, cell.after):
                row += list(side[metric.key] or (None, None))
        rows.append([*row, *(cell.ppl_ratio or (None, None))])
    return header, rows


STATUS_STYLE = {"finished": "green", "not_forgotten": "yellow", "failed": "red"}
STATUS_WORD = {"finished": "forgotten", "not_forgotten": "not forgotten", "failed": "failed"}


def print_tables(summary: Summary, console: Console) -> None:
    """Each trial before -> after, then each cell as mean ± standard deviation over its samples."""
    if not summary.results:
        console.print(f"No trial of '{summary.sweep}' has a result yet.")
        return
    shown = [m for m in METRICS if m.key in ("ma", "el10", "bertscore_f1", "ppl_heldout")]
    evaluated = _evaluated_columns(summary)
    trials = Table(title="Trials (before → after)", title_justify="left", box=None, pad_edge=False)
    trials.add_column("trial", overflow="fold")
    for metric in shown:
        trials.add_column(metric.heading, justify="right")
    for column, _ in evaluated:
        trials.add_column(column.heading, justify="right")
    trials.add_column("epochs", justify="right")
    trials.add_column("time", justify="right")
    trials.add_column("status")
    for result in summary.results:
        cells = [_arrow(result, metric) for metric in shown]
        cells += [_evaluated_arrow(summary.evaluations.get(result.trial_id), *each) for each in evaluated]
        seconds = f"{result.seconds.get('total', 0.0):.0f} s"
        style = STATUS_STYLE[result.status]
        status = NOT_TRAINED if result.reason == NOT_TRAINED else f"[{style}]{STATUS_WORD[result.status]}[/{style}]"
        trials.add_row(result.name, *cells, str(result.epochs), seconds, status)
    console.print(trials)
    by_cell = Table(
        title="Cells after unlearning (mean ± standard deviation over samples)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in ("model", "method", "α", "β"):
        by_cell.add_column(heading)
    for metric in shown:
        by_cell.add_column(metric.heading, justify="right")
    by_cell.add_column("PPL ratio", justify="right")
    by_cell.add_column("forgotten", justify="right")
    for cell in summary.cells:
        values = [_plus_minus(cell.after[metric.key], metric.decimals) for metric in shown]
        count = f"{cell.forgotten}/{cell.trials}"
        ratio = _plus_minus(cell.ppl_ratio, 2)
        by_cell.add_row(cell.model, cell.method, f"{cell.alpha:g}", f"{cell.beta:g}", *values, ratio, count)
    console.print()
    console.print(by_cell)
    for result in summary.results:
        if result.status != "finished" and result.reason != NOT_TRAINED:
            console.print(f"{result.name}: {STATUS_WORD[result.status]}: {result.reason}", style="yellow", markup=False)
    for name in summary.missing:
        console.print(f"{name}: no result yet", style="yellow")


def _evaluated_columns(summary: Summary) -> list[tuple[Column, str]]:
    """The paper's columns that an evaluation filled, with the metric that each shows."""
    metrics = evaluated_metrics(found.after for found in summary.evaluations.values())
    return [(column, metrics[column.key]) for column in PAPER_COLUMNS if column.key in metrics]


def _evaluated_arrow(found: TrialEvaluation | None, column: Column, metric: str) -> str:
    sides = ({}, {}) if found is None else (found.before, found.after)
    values = (column.value(None, side, metric) for side in sides)
    return " → ".join("-" if value is None else column.text(value) for value in values)


def _arrow(result: TrialResult, metric: Metric) -> str:
    sides = (_number(metric.read(s) if s else None, metric.decimals) for s in (result.before, result.after))
    return " → ".join(sides)


def _number(value: float | None, decimals: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{decimals}f}" if abs(value) < 1e5 else f"{value:.1e}"


def _plus_minus(value: tuple[float, float | None] | None, decimals: int) -> str:
    if value is None:
        return "-"
    mean, deviation = value
    return _number(mean, decimals) + ("" if deviation is None else f" ± {_number(deviation, decimals)}")
