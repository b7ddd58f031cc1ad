"""What a sweep prints at its end: a table of trials, a table of cells, what did not work, what attacks brought back.

print_tables(summarise("runs", "quickstart"), Console())
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from icu_ray.console.terminal import print_words
from icu_ray.report.collect import SIDES
from icu_ray.report.numbers.columns import CAME_BACK, PAPER_COLUMNS, Column, evaluated_metrics
from icu_ray.report.numbers.statistics import FEWEST
from icu_ray.report.numbers.summary import Metric, Summary
from icu_ray.report.terminal.closing_lines import closing_lines
from icu_ray.report.terminal.fitting import Heading, print_fitting
from icu_ray.storage.results import NOTHING_UNLEARNED, TrialResult
from icu_ray.storage.verdict import OUTCOME_WORD, result_outcome

_STYLES = {"success": "green", "failed": "red", "measured": ""}


def outcome_style(result: TrialResult | None) -> str:
    """The colour of a trial's outcome; '' of one that has none yet."""
    return "" if result is None else _STYLES.get(result_outcome(result), "yellow")


def print_tables(summary: Summary, console: Console) -> None:
    """Each trial before -> after, then each cell as mean ± standard deviation over its samples, or its seeds."""
    if not summary.results:
        print_words(console, f"No trial of '{summary.sweep}' has a result yet.")
        return
    shown = [m for m in summary.metrics if m.key in ("ma", "bertscore_f1", "ppl_heldout") or m.heading.startswith("EL")]
    evaluated = _evaluated_columns(summary)
    # Beside what came back the perplexity has to yield: its ratio stands in the second table.
    spare = {"bertscore_f1": 6, "ppl_heldout": int(bool(summary.audits))}
    varied = _varied(summary)
    headings = [Heading("trial"), *(Heading(key, True, 1) for key in varied)]
    headings += [Heading(m.heading, True, spare.get(m.key, 0)) for m in shown]
    headings += [
        # What came back goes last: it may turn the answer round.
        Heading("back %", True) if column.key == CAME_BACK.key else Heading(column.heading, True, 7 + place)
        for place, (column, _) in enumerate(evaluated)
    ]
    headings += [Heading("epochs", True, 2), Heading("time", True, 3), Heading("status")]
    rows = []
    for result in summary.results:
        cells = [_arrow(result, metric) for metric in shown]
        cells += [_evaluated_arrow(summary, result.trial_id, *each) for each in evaluated]
        seconds = f"{result.seconds.get('total', 0.0):.0f} s"
        style, word = outcome_style(result), OUTCOME_WORD[result_outcome(result)]
        status = f"[{style}]{word}[/{style}]" if style else word
        told = [str(result.hyperparameters.get(key, "")) for key in varied]
        rows.append([escape(result.name), *told, *cells, str(result.epochs), seconds, status])
    print_fitting(console, headings, rows, title="Trials (before -> after)", where="trials.csv")
    headings = [*(Heading(name) for name in ("model", "method")), Heading("alpha", True), Heading("beta", True)]
    headings += [Heading(m.heading, True, {"bertscore_f1": 3, "ppl_heldout": 2}.get(m.key, 0)) for m in shown]
    audited = bool(summary.audits)
    headings += [Heading(name, True) for name in ("PPL ratio", *(["back %"] if audited else []), "forgotten")]
    told = [key for key in varied if key != "seed"]
    headings[4:4] = [Heading(key, True) for key in told]
    rows = []
    for cell in summary.cells:
        values = [_plus_minus(cell.after[metric.key], metric.decimals) for metric in shown]
        count = "-" if cell.forgotten is None else f"{cell.forgotten}/{cell.trials}"
        others = [str(cell.told.get(key, "")) for key in told]
        weights = [f"{cell.alpha:g}", f"{cell.beta:g}", *others]
        values += [_plus_minus(cell.ppl_ratio, 2), *([_plus_minus(cell.came_back[1], 1)] if audited else [])]
        rows.append([escape(cell.model), escape(cell.method), *weights, *values, count])
    console.print()
    title = f"Cells after unlearning (mean ± standard deviation of {FEWEST} {_repeated(summary)} or more)"
    print_fitting(console, headings, rows, title=title, where="cells.csv")
    for result in summary.results:
        if result.status != "finished" and result.reason not in NOTHING_UNLEARNED:
            said = f"{result.name}: {OUTCOME_WORD[result_outcome(result)]}: {result.reason}"
            print_words(console, said, "yellow")
    for name in summary.missing:
        print_words(console, f"{name}: no result yet", "yellow")
    for line in closing_lines(summary):
        print_words(console, line)


def _repeated(summary: Summary) -> str:
    """What the repetitions of the cells are."""
    found = {cell.over for cell in summary.cells if cell.trials > 1} or {"forget samples"}
    return " or ".join(over.removeprefix("forget ") for over in sorted(found))


def _varied(summary: Summary) -> list[str]:
    """What trials were told that not all were told alike, besides alpha and beta."""
    told = [result.hyperparameters for result in summary.results]
    keys = dict.fromkeys(key for each in told for key in each if key not in ("alpha", "beta"))
    # A model's own lr says nothing that its name does not say.
    return [key for key in keys if any(len(set(values)) > 1 for values in _by_model(summary, key).values())]


def _by_model(summary: Summary, key: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for result in summary.results:
        found.setdefault(result.model, []).append(str(result.hyperparameters.get(key, "")))
    return found


def _evaluated_columns(summary: Summary) -> list[tuple[Column, str]]:
    """The paper's columns that an evaluation filled, and what came back, with the metric that each shows."""
    metrics = evaluated_metrics(summary.evaluated(result.trial_id) for result in summary.results)
    return [(column, metrics[column.key]) for column in (*PAPER_COLUMNS, CAME_BACK) if column.key in metrics]


def _evaluated_arrow(summary: Summary, trial_id: str, column: Column, metric: str) -> str:
    values = (column.value(None, summary.evaluated(trial_id, side), metric) for side in SIDES)
    return " -> ".join("-" if value is None else column.text(value) for value in values)


def _arrow(result: TrialResult, metric: Metric) -> str:
    sides = (_number(metric.read(s) if s else None, metric.decimals) for s in (result.before, result.after))
    return " -> ".join(sides)


def _number(value: float | None, decimals: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{decimals}f}" if abs(value) < 1e5 else f"{value:.1e}"


def _plus_minus(value: tuple[float, float | None] | None, decimals: int) -> str:
    if value is None:
        return "-"
    mean, deviation = value
    return _number(mean, decimals) + ("" if deviation is None else f" ± {_number(deviation, decimals)}")
