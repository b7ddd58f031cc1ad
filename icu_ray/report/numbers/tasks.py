"""What the models can still do, task by task: one table a model, metrics down, the original and each method across.

tables = task_tables(blocks)        # () where no trial was evaluated
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icu_ray.report.numbers.benchmark_tables import BenchmarkTable, is_benchmarks
from icu_ray.report.numbers.rows import Block


@dataclass(frozen=True)
class TaskTable:
    """rows: names of the block's rows. lines: (metric, its mean over the trials of each row, None without any)."""

    model: str
    rows: tuple[str, ...]
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]

    def unit(self, metric: str) -> str:
        """Of a metric's values as tables print them."""
        return "PPL" if metric.startswith("ppl/") else "" if is_benchmarks(metric) else "%"

    def text(self, metric: str, value: float | None) -> str:
        """A value as tables print it: fractions in per cent, perplexities and a benchmark's numbers as they are."""
        if value is None:
            return "–"
        if metric.startswith("ppl/"):
            return f"{value:.1f}" if value < 1e5 else f"{value:.1e}"
        if is_benchmarks(metric):
            return BenchmarkTable.text(value)
        return f"{100 * value:.1f}"


def task_tables(blocks: Sequence[Block]) -> tuple[TaskTable, ...]:
    """The tables of all models that have any evaluated trial."""
    tables = []
    for block in blocks:
        names = list(dict.fromkeys(name for row in block.rows for metrics in block.evaluated(row) for name in metrics))
        names = [name for name in names if not name.startswith("audit/")]  # MLflow has both in one
        if names:
            lines = tuple((name, tuple(block.evaluated_mean(row, name) for row in block.rows)) for name in names)
            tables.append(TaskTable(block.model, tuple(row.name for row in block.rows), lines))
    return tuple(tables)
