"""The report's tables as CSV, exact numbers for other programs: table.csv, tests.csv, scores.csv, tasks.csv,
epochs.csv, distances.csv, targets.csv, best_cells.csv, elsewhere.csv, audit.csv, audit_numbers.csv.

for name, data in csv_tables(report).items(): ...
"""

from __future__ import annotations

from dataclasses import astuple

from icu_ray.report.contents import Report
from icu_ray.report.numbers.benchmark_tables import is_benchmarks
from icu_ray.report.numbers.comparison import Comparison
from icu_ray.report.numbers.targets import target_keys
from icu_ray.storage.csv_files import csv_bytes, filled


def csv_tables(report: Report) -> dict[str, bytes]:
    """File contents by name, UTF-8; numbers in full, empty where there is none; no formula, no column without a value.

    A header says its column's unit: `_pct` is per cent; _ci95 is half of the 95 % interval in the unit of the mean, and
    _seed_std the deviation over the seeds of a sample, where there are several samples. Where one table has metrics in
    per cent and others without a unit (perplexities), each kind has its own columns. over: what the repetitions of a
    row or of a test are.
    """
    tables = {"table.csv": _main(report), "scores.csv": _scores(report), "tests.csv": _tests(report)}
    if report.tasks:
        tables["tasks.csv"] = _tasks(report)
    if rows := _epochs(report):
        header = ["model", "row", "trial", "sample", "seed", "epoch", "metric", "value_pct", "perplexity", "value"]
        tables["epochs.csv"] = csv_bytes(*filled(header, rows))
    if report.distances:
        tables["distances.csv"] = _distances(report)
    if report.best:
        tables["best_cells.csv"] = _best_cells(report)
    if report.elsewhere:
        tables["elsewhere.csv"] = _elsewhere(report)
    if report.audits:
        tables["audit.csv"], tables["audit_numbers.csv"] = _audit(report), _audit_numbers(report)
    if report.targets:
        tables["targets.csv"] = csv_bytes(*filled(target_keys(report.found), [row.values for row in report.targets]))
    return tables


def _main(report: Report) -> bytes:
    varied = list(dict.fromkeys(key for block in report.blocks for row in block.rows for key in row.varied))
    header = ["model", "method", "alpha", "beta", *varied, "variant", "over", "trials", "forgotten", "epochs"]
    for column in report.columns:
        header += [f"{column.in_files}_{what}" for what in ("mean", "ci95", "n", "seed_std", "mark", "paper")]
    rows = []
    for block in report.blocks:
        for row in block.rows:
            line: list[object] = [block.model, row.label, row.alpha, row.beta]
            line += [*(row.varied.get(key) for key in varied), row.variant]
            line += [None if row.before else row.over, len(row.trials), *row.counted]
            for column in report.columns:
                value = row.values[column.key]
                line += [None] * 4 if value is None else [value.mean, value.half, value.n, value.seed_std]
                line += [row.marks.get(column.key), None if row.paper is None else row.paper.printed.get(column.key)]
            rows.append(line)
    return csv_bytes(*filled(header, rows))


def _tasks(report: Report) -> bytes:
    rows = [
        [table.model, row, metric, *_by_unit(metric, value)]
        for table in report.tasks
        for metric, values in table.lines
        for row, value in zip(table.rows, values, strict=True)
    ]
    return csv_bytes(*filled(["model", "row", "metric", "mean_pct", "perplexity", "value"], rows))


def _epochs(report: Report) -> list[list[object]]:
    """What the evaluation measured after each epoch of each trial, where that was asked for."""
    return [
        [block.model, row.name, trial.name, *trial.unit, epoch, metric, *_by_unit(metric, value)]
        for block in report.blocks
        for row in block.methods
        for trial in row.trials
        for epoch, metrics in trial.by_epoch.items()
        for metric, value in metrics.items()
    ]


def _by_unit(metric: str, value: float | None) -> tuple[float | None, float | None, float | None]:
    """A mean in the column of its unit: per cent, perplexity, or a benchmark's own."""
    if metric.startswith("ppl/"):
        return None, value, None
    return (None, None, value) if is_benchmarks(metric) else (_percent(value), None, None)


def _audit(report: Report) -> bytes:
    """Every attack at every setting and budget, on every model."""
    header = ["model", "line", "row", "role", "attack", "unit", "setting", "budget", "back", "total", "control_back"]
    rows = [
        [table.model, line.name, line.row, line.role, *astuple(point), line.audit.counted(point) > 0]
        for table in report.audits
        for line in table.lines
        for point in line.audit.curves
    ]
    return csv_bytes(
        *filled(
            [*header, "control_total", "recall", "p_fisher", "exact", "control_exact", "p_fisher_exact", "tells"], rows
        )
    )


def _audit_numbers(report: Report) -> bytes:
    rows = [
        [table.model, line.name, line.role, name, value]
        for table in report.audits
        for name, values in table.numbers
        for line, value in zip(table.lines, values, strict=True)
    ]
    return csv_bytes(*filled(["model", "line", "role", "number", "value"], rows))


def _elsewhere(report: Report) -> bytes:
    """Values in the units of the files that were read, so that none has one in its header."""
    rows = [
        [table.model, metric, row, place >= len(table.ours), value]
        for table in report.elsewhere
        for metric, values in table.lines
        for place, (row, value) in enumerate(zip((*table.ours, *table.theirs), values, strict=True))
    ]
    return csv_bytes(*filled(["model", "metric", "row", "imported", "value"], rows))


def _distances(report: Report) -> bytes:
    header = [
        "model",
        "row",
        "sample",
        "seed",
        "texts",
        "ks",
        "p",
        "loss_difference",
        *(f"{c.in_files}_difference" for c in report.columns),
    ]
    rows = [
        [table.model, row.row.name, each.sample, each.seed, each.texts, each.ks, each.p, each.loss]
        + [each.differences.get(column.key) for column in report.columns]
        for table in report.distances
        for row in table.rows
        for each in row.distances
    ]
    return csv_bytes(*filled(header, rows))


def _best_cells(report: Report) -> bytes:
    varied = list(dict.fromkeys(key for each in report.best for key in each.row.varied))
    header = ["model", "method", "alpha", "beta", *varied, "cells", "trials", "forgotten", "forget_cheaply", "audited"]
    rows = []
    for each in report.best:
        row = each.row
        line: list[object] = [each.model, row.label, row.alpha, row.beta, *(row.varied.get(key) for key in varied)]
        values = (None, each.objective) if each.audited else (each.objective, None)
        rows.append([*line, each.cells, len(row.trials), row.forgotten, *values])
    return csv_bytes(*filled(header, rows))


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _scores(report: Report) -> bytes:
    header = ["model", "row", "columns", "population", "complete", "s_z", "s_m"]
    rows = [
        [
            scores.model,
            name,
            " ".join(column.key for column in scores.columns),
            len(scores.population),
            scores.complete,
            scores.s_z[name],
            scores.s_m[name],
        ]
        for scores in report.scores
        for name in scores.s_z
    ]
    return csv_bytes(*filled(header, rows))


def _tests(report: Report) -> bytes:
    kinds = ("pct", "bits", "")
    header = ["model", "first", "second", "metric", "over", "n"]
    header += [f"{what}_{kind}" if kind else what for kind in kinds for what in ("difference", "ci95")]
    header += ["p_t", "p_holm", "p_wilcoxon"]

    def measured(item: Comparison) -> list[float | None]:
        kind = next((kind for kind, said in (("pct", "(%)"), ("bits", "(bits)")) if said in item.column), "")
        values = (item.test.difference, item.test.half)
        return [value if each == kind else None for each in kinds for value in values]

    rows = [
        [
            item.model,
            item.reference,
            item.other,
            item.column,
            item.level,
            item.test.n,
            *measured(item),
            item.test.p_t,
            item.p_holm,
            item.test.p_wilcoxon,
            item.test.note,
        ]
        for item in report.tests
    ]
    return csv_bytes(*filled([*header, "note"], rows))
