"""A benchmark's own table: its columns by their own names, and beside them what the literature prints for that model.

    tables = benchmark_tables(blocks, configs)        # () where nothing of a benchmark was evaluated

Behind a benchmark's own columns stand the AUCs of the membership attacks that were measured. Values are as the
benchmark has them, fractions and p-values, not per cent. Printed numbers stand beside ours only where
the model is the one that they were printed for; data, seeds and versions still differ.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from icu_ray import methods
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.derived import ATTACKS
from icu_ray.report.numbers.rows import BEFORE, Block
from icu_ray.storage.imported import Imported

_MORE: Mapping[str, tuple[str, ...]] = {"forget_quality": ("forget_quality_log10",)}
"""Columns of ours that stand behind a benchmark's own: of a p-value near 0 the logarithm says more."""


@dataclass(frozen=True)
class BenchmarkTable:
    """One model's. columns: names of metrics. rows: each row's name with its values, None where not measured.
    printed: the same of what `source` prints; imported: of what another framework measured (icu-ray import)."""

    model: str
    title: str
    split: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    printed: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    source: str = ""
    imported: tuple[tuple[str, tuple[float | None, ...]], ...] = ()

    @property
    def every(self) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
        """All rows: ours, printed ones, imported ones."""
        return (*self.rows, *self.printed, *self.imported)

    @staticmethod
    def text(value: float | None) -> str:
        """A value as the literature prints it: two digits, small ones as powers of ten."""
        if value is None:
            return "–"
        return f"{value:.2e}" if value != 0 and abs(value) < 0.01 else f"{value:.2f}"


def benchmark_tables(
    blocks: Sequence[Block], configs: Sequence[Mapping[str, Any]], imported: Sequence[Imported] = ()
) -> tuple[BenchmarkTable, ...]:
    """One for each model and benchmark of which anything was measured. An import without a model is the only one's."""
    tables = []
    only = blocks[0].model if len(blocks) == 1 else ""
    for block in blocks:
        for name, benchmark in BENCHMARKS.items():
            own = (each for reported in benchmark.reported for each in (reported, *_MORE.get(reported, ())))
            columns = tuple(dict.fromkeys((*own, *ATTACKS)))
            rows = [
                (row, tuple(block.evaluated_mean(row, _full(name, column)) for column in columns)) for row in block.rows
            ]
            # What was left open for want of a retrained model has its column: that it is empty is worth seeing.
            left_open = {each for row in block.rows for metrics in block.evaluated(row) for each in metrics}
            measured = [place for place in range(len(columns)) if any(values[place] is not None for _, values in rows)]
            if not measured:
                continue
            used = [n for n, column in enumerate(columns) if n in measured or _full(name, column) in left_open]
            split, source = _told(block.model, name, configs)
            shown = tuple(columns[place] for place in used)
            printed = _printed(name, source, split, shown)
            beside = [each for each in imported if (each.model or only) == block.model]
            theirs = [(f"{each.label}, imported", tuple(each.shown.get(column) for column in shown)) for each in beside]
            tables.append(
                BenchmarkTable(
                    block.model,
                    benchmark.title,
                    split,
                    shown,
                    tuple((row.name, tuple(values[place] for place in used)) for row, values in rows),
                    printed,
                    _file()["source"] if printed else "",
                    tuple(row for row in theirs if any(value is not None for value in row[1])),
                )
            )
    return tuple(tables)


def _full(benchmark: str, column: str) -> str:
    """The metric of a column: a benchmark's own, or one of the harness, which is named in full."""
    return column if "/" in column else f"{benchmark}/{column}"


def is_benchmarks(metric: str) -> bool:
    """Whether a metric of the evaluation is a benchmark's, whose numbers are no percentages."""
    return metric.split("/")[0] in BENCHMARKS


def _told(model: str, benchmark: str, configs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The split and the model's source of the config that asks a benchmark."""
    for config in configs:
        data = config.get("data")
        if isinstance(data, Mapping) and data.get("source") == benchmark:
            entries = [entry for entry in config.get("models", ()) if entry.get("name") == model]
            if entries:
                return str(data.get("split", "")), str(entries[0].get("source") or "")
    return "", ""


def _printed(
    benchmark: str, source: str, split: str, columns: tuple[str, ...]
) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    """What is printed for this model and split; the longest name that the model's source has counts."""
    rows = [row for row in _file()["rows"] if row["benchmark"] == benchmark and row["split"] == split]
    known = BENCHMARKS[benchmark].splits.get(split)
    target = None if known is None or known.models is None else known.models.get("target")
    named = [row["model"] for row in rows if row["model"].lower() in source.lower() or source == target]
    model = max(named, key=len, default=None)
    said = {BEFORE: "before unlearning", methods.RETRAINED: "retrained"}
    return tuple(
        (f"{said.get(row['method'], row['method'])}, printed", tuple(row["values"].get(column) for column in columns))
        for row in rows
        if row["model"] == model
    )


@functools.cache
def _file() -> dict[str, Any]:
    known = files("icu_ray.report.numbers").joinpath("printed_benchmarks.json").read_text(encoding="utf-8")
    return dict(json.loads(known))
