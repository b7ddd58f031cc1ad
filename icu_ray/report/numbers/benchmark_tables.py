"""A benchmark's own table: its columns by their own names, and beside them what the literature prints for that model.

    tables = benchmark_tables(blocks, configs)        # () where nothing of a benchmark was evaluated

Behind a benchmark's own columns stand the AUCs of the membership attacks that were measured. Values are as the
benchmark has them, fractions and p-values, not per cent. Printed numbers stand beside ours only where
the model is the one that they were printed for; data, seeds and versions still differ. A printed p-value is of all
rows, and stands beside none of fewer.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from icu_ray import methods
from icu_ray.evaluation.benchmarks import BENCHMARKS
from icu_ray.evaluation.benchmarks.definition import Benchmark
from icu_ray.evaluation.benchmarks.derived import ATTACKS
from icu_ray.evaluation.benchmarks.published import shown
from icu_ray.metrics.conventions import told_choices
from icu_ray.report.numbers.rows import BEFORE, Block, Row
from icu_ray.storage.imported import Imported

_MORE: Mapping[str, tuple[str, ...]] = {
    "forget_quality": ("forget_quality_log10",),
    "forget_Truth_Ratio": ("forget_parap_question_Truth_Ratio",),
    "forget_Q_A_Prob": ("forget_parap_question_Q_A_Prob",),
    "forget_Q_A_ROUGE": ("forget_parap_question_Q_A_ROUGE",),
}
"""Columns of ours that stand behind a benchmark's own: of a p-value near 0 the logarithm says more, and what is known
may come out when the question is asked in other words."""
_P_VALUES = ("forget_quality", "forget_quality_log10")
_CONVENTIONS: Mapping[str, str] = {"defined": "measures as defined", "open_unlearning": "measures as OpenUnlearning's"}


@dataclass(frozen=True)
class _Asked:
    """What the configs that ask a benchmark of a model say, each thing once. limits: of rows, None for all of them."""

    splits: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    limits: tuple[int | None, ...] = ()
    conventions: tuple[str, ...] = ()
    """In words."""

    @property
    def split(self) -> str:
        """The first one."""
        return self.splits[0] if self.splits else ""

    @property
    def source(self) -> str:
        """The model's, the first one."""
        return self.sources[0] if self.sources else ""

    def cuts(self, rows: Sequence[int | None]) -> bool:
        """Whether a limit leaves out any row of sets with so many rows; where that is not known it may."""
        limits = [limit for limit in self.limits if limit is not None]
        return any(each is None or limit < each for limit in limits for each in rows)


@dataclass(frozen=True)
class BenchmarkTable:
    """One model's. columns: names of metrics. rows: each row's name with its values, None where not measured.
    printed: the same of what `source` prints; imported: of what another framework measured (icu-ray import). asked: on
    which rows and by which conventions, '' where no config says it. partial: by row, of how many of its trials the
    means are, where that is not all. notes: sentences on this table's numbers."""

    model: str
    title: str
    split: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    printed: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    source: str = ""
    imported: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    asked: str = ""
    partial: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """'TOFU forget10, first 40 rows of each set, measures as defined'."""
        return ", ".join(filter(None, (f"{self.title} {self.split}".rstrip(), self.asked)))

    def label(self, row: str) -> str:
        """A row's name as tables print it: 'npo (2 of 3 trials)'."""
        return f"{row} ({self.partial[row]})" if row in self.partial else row

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
            asked = _asked(block.model, name, configs)
            names = tuple(columns[place] for place in used)
            printed = _printed(name, asked, names)
            beside = [each for each in imported if (each.model or only) == block.model]
            theirs = [(f"{each.label}, imported", tuple(each.shown.get(column) for column in names)) for each in beside]
            tables.append(
                BenchmarkTable(
                    block.model,
                    benchmark.title,
                    asked.split,
                    names,
                    tuple((row.name, tuple(values[place] for place in used)) for row, values in rows),
                    printed,
                    _file()["source"] if printed else "",
                    tuple(row for row in theirs if any(value is not None for value in row[1])),
                    _asked_said(benchmark, asked),
                    _partial(block, [_full(name, column) for column in names]),
                    (*_measured_said(block, name), *(_printed_said(benchmark, asked) if printed else ())),
                )
            )
    return tuple(tables)


def _full(benchmark: str, column: str) -> str:
    """The metric of a column: a benchmark's own, or one of the harness, which is named in full."""
    return column if "/" in column else f"{benchmark}/{column}"


def is_benchmarks(metric: str) -> bool:
    """Whether a metric of the evaluation is a benchmark's, whose numbers are no percentages."""
    return metric.split("/")[0] in BENCHMARKS


def _asked(model: str, benchmark: str, configs: Sequence[Mapping[str, Any]]) -> _Asked:
    """What the configs say that ask a benchmark of a model."""
    found: list[tuple[str, str, int | None, str]] = []
    for config in configs:
        data = config.get("data")
        if isinstance(data, Mapping) and data.get("source") == benchmark:
            evaluation = config.get("evaluation") or {}
            by = _conventions_said(evaluation.get("conventions") or "defined")
            found += [
                (str(data.get("split", "")), str(entry.get("source") or ""), evaluation.get("limit"), by)
                for entry in config.get("models", ())
                if entry.get("name") == model
            ]
    return _Asked(*(tuple(dict.fromkeys(each)) for each in zip(*found, strict=True)))


def _set_rows(benchmark: Benchmark, split: str, forget: bool = False) -> list[int | None]:
    """How many rows the sets of a split have, or that of the rows to forget; None where that is not known."""
    known = benchmark.splits.get(split)
    sets = () if known is None else known.sets
    return [benchmark.table(each.table).rows for each in sets if not forget or each.name == "forget"] or [None]


def _asked_said(benchmark: Benchmark, asked: _Asked) -> str:
    """'first 40 rows of each set, measures as defined'; '' where no config says it."""
    said = []
    if asked.cuts(_set_rows(benchmark, asked.split)):
        each = ("all rows" if limit is None else f"first {limit} rows of each set" for limit in asked.limits)
        said.append(" or ".join(each))
    if any(split.sets for split in benchmark.splits.values()) and asked.conventions:
        said.append(" or ".join(asked.conventions))
    return ", ".join(said)


def _conventions_said(given: str | Mapping[str, Any]) -> str:
    """'measures as OpenUnlearning's but for tail=eos'."""
    base, chosen = told_choices(given)
    but = ", ".join(f"{name}={str(value).lower()}" for name, value in chosen)
    said = _CONVENTIONS.get(base, base)
    return f"{said} but for {but}" if but else said


def _partial(block: Block, metrics: Sequence[str]) -> dict[str, str]:
    """By name of a row, of how many of its trials its means are, where any is of fewer than all."""
    found = {}
    for row in (each for each in block.rows if not each.before):
        known = block.evaluated(row)
        counts = [n for name in metrics if (n := sum(each.get(name) is not None for each in known))]
        if counts and min(counts) < len(row.trials):
            least, most = min(counts), max(counts)
            of = f"{least}" if least == most else f"{least} to {most}"
            found[row.name] = f"{of} of {len(row.trials)} trials"
    return found


def _measured_said(block: Block, benchmark: str) -> list[str]:
    """What the numbers do not say themselves: rows that could not be measured, and why there is no privleak."""
    said = []
    for row in block.rows:
        counted, asked = "forget_quality_rows", "forget_quality_rows_asked"
        few = [(n, of) for n, of in _pairs(block, row, benchmark, counted, asked) if n is not None and of and n < of]
        if few:
            n, of = min(few)
            said.append(f"{row.name}: forget_quality is of {n:.0f} of {of:.0f} rows; the others could not be measured.")
    pairs = [pair for row in block.rows for pair in _pairs(block, row, benchmark, "privleak", "rel_diff")]
    if any(leak is None and difference is not None for leak, difference in pairs):
        said.append(
            "privleak is not defined where the AUC of the retrained model is 1, because it is a share of 1 minus that."
        )
    return said


def _pairs(block: Block, row: Row, benchmark: str, first: str, second: str) -> list[tuple[float | None, float | None]]:
    return [(each.get(f"{benchmark}/{first}"), each.get(f"{benchmark}/{second}")) for each in block.evaluated(row)]


def _printed(
    benchmark: str, asked: _Asked, columns: tuple[str, ...]
) -> tuple[tuple[str, tuple[float | None, ...]], ...]:
    """What is printed for this split of the published target, or of a model with the name of its base."""
    rows = [row for row in _file()["rows"] if row["benchmark"] == benchmark and row["split"] == asked.split]
    known = BENCHMARKS[benchmark].splits.get(asked.split)
    target = "" if known is None else (known.models or {}).get("target", "")
    cut = asked.cuts(_set_rows(BENCHMARKS[benchmark], asked.split, forget=True))
    shown_columns = [column for column in columns if not (cut and column in _P_VALUES)]
    said = {BEFORE: "before unlearning", methods.RETRAINED: "retrained"}
    found = []
    for row in rows:
        values = tuple(row["values"].get(column) if column in shown_columns else None for column in columns)
        if _is_of(row["model"], asked.source, target) and any(value is not None for value in values):
            found.append((f"{said.get(row['method'], row['method'])}, printed", values))
    return tuple(found)


def _is_of(printed: str, source: str, target: str) -> bool:
    """Whether a model's source is what a row was printed for: the published target of that base, or the base itself,
    whose name on the hub may end with -hf."""
    names = (printed, f"{printed}-hf")
    targets = [shown(target, name).lower() for name in names] if target else []
    base = source.rstrip("/").rpartition("/")[2]
    return source.lower() in targets or base.lower() in [name.lower() for name in names]


def _printed_said(benchmark: Benchmark, asked: _Asked) -> list[str]:
    """In what the printed rows differ from ours."""
    said, theirs = [], str(_file()["conventions"])
    if others := [each for each in asked.conventions if each != _CONVENTIONS[theirs]]:
        said.append(
            f"Printed rows have {_CONVENTIONS[theirs]}, ours {' or '.join(others)}: they differ for that too "
            f"(evaluation.conventions={theirs} measures as they do)."
        )
    if asked.cuts(_set_rows(benchmark, asked.split)):
        said.append("Printed rows are of whole sets.")
    if asked.cuts(_set_rows(benchmark, asked.split, forget=True)):
        said.append("Their forget_quality is not shown: a p-value depends on how many rows there are.")
    return said


@functools.cache
def _file() -> dict[str, Any]:
    known = files("icu_ray.report.numbers").joinpath("printed_benchmarks.json").read_text(encoding="utf-8")
    return dict(json.loads(known))
