"""What another framework measured beside what was measured here: one table a model, metrics down, rows across.

    tables = elsewhere_tables(found, blocks)        # () where nothing was imported

A metric of ours stands beside one of the same name (field_names.py) and nowhere else. These rows are in no ranking,
score or test: nobody here knows on which texts and how they were measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from icu_ray.report.collect import Collected, ReportedTrial
from icu_ray.report.numbers.field_names import Side, measured
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.storage.imported import Imported


@dataclass(frozen=True)
class ElsewhereTable:
    """model: of ours, or as the import said it, '' for neither. lines: (metric, a value for each of ours and theirs).

    ours: names of rows that have any of the metrics. theirs: labels. sources: for each label, the file that was read.
    """

    model: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]
    sources: tuple[str, ...]

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.model or "model not named"


def elsewhere_text(value: float | None) -> str:
    """A value as tables print it, in the unit of its file: '–' for none."""
    return "–" if value is None else f"{value:.4g}"


def elsewhere_tables(found: Collected, blocks: Sequence[Block]) -> tuple[ElsewhereTable, ...]:
    """One table for each model of an import. An import without a model stands beside the only one there is."""
    only = blocks[0].model if len(blocks) == 1 else ""
    models = dict.fromkeys(each.model or only for each in found.imported)
    by_name = {block.model: block for block in blocks}
    ordered = [*(name for name in by_name if name in models), *(name for name in models if name not in by_name)]
    return tuple(
        _table(name, by_name.get(name), [each for each in found.imported if (each.model or only) == name], found)
        for name in ordered
    )


def _table(model: str, block: Block | None, imported: Sequence[Imported], found: Collected) -> ElsewhereTable:
    names = sorted({name for each in imported for name in each.shown}, key=lambda name: (name.casefold(), name))
    columns = [] if block is None else [(row.name, _ours(row, found, block.model, names)) for row in block.rows]
    columns = [(name, values) for name, values in columns if any(value is not None for value in values)]
    theirs = [[each.shown.get(name) for name in names] for each in imported]
    every = [*(values for _, values in columns), *theirs]
    return ElsewhereTable(
        model,
        tuple(name for name, _ in columns),
        tuple(each.label for each in imported),
        tuple((name, tuple(values[place] for values in every)) for place, name in enumerate(names)),
        tuple(map(_source, imported)),
    )


def _ours(row: Row, found: Collected, model: str, names: Sequence[str]) -> list[float | None]:
    """A row's means over its trials; of the model before, over its forget samples."""
    if not row.before:
        return [_mean(row.trials, name, "after") for name in names]
    first = {trial.sample: trial for trial in reversed(found.trials) if trial.model == model and trial.measured}
    return [_mean(first.values(), name, "before") for name in names]


def _mean(trials: Iterable[ReportedTrial], name: str, side: Side) -> float | None:
    known = [measure.aggregate for trial in trials if (measure := measured(trial, name, side)) is not None]
    values = [value for value in known if value is not None]
    return fmean(values) if values else None


def _source(imported: Imported) -> str:
    day = time.strftime("%Y-%m-%d", time.localtime(imported.read))
    return f"{imported.label}: {imported.source}, SHA-256 {imported.sha256[:16]}, read {day}"
