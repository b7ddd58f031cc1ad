"""What a sweep prints at its end: a table of trials, a table of cells, and what did not work.

print_tables(summarise("runs", "quickstart"), Console())
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from icu_ray.report.numbers.columns import PAPER_COLUMNS, Column, evaluated_metrics
from icu_ray.report.numbers.summary import METRICS, Metric, Summary
from icu_ray.storage.results import NOT_TRAINED, TrialEvaluation, TrialResult

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
