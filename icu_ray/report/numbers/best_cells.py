"""The best cell of each method of a grid, by what a search would maximise: forgetting first, then cost.

best_cells(blocks)[0].row.name, best_cells(blocks)[0].cells        # 'npo (4, –) [optim.lr=0.0005]', 6

Where each method had equally many cells this is a fair choice among them; how good the chosen cell is, only a forget
sample can say on which it was not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from icu_ray.config import StopConfig
from icu_ray.plan.search_objective import objective_of, with_came_back
from icu_ray.report.collect import ReportedTrial
from icu_ray.report.numbers.rows import Block, Row


@dataclass(frozen=True)
class BestCell:
    """A method on a model. cells: how many of its cells have a value; objective: the chosen one's, mean over trials.

    audited: it counts what came back under the attacks of the trials' audits, as all cells of the model have been.
    """

    model: str
    row: Row
    cells: int
    objective: float
    audited: bool = False


def best_cells(blocks: Sequence[Block]) -> tuple[BestCell, ...]:
    """By model, the best method first; none of a model whose methods have one cell each."""
    found = []
    for block in blocks:
        by_method: dict[str, list[tuple[float, Row]]] = {}
        known = [row for row in block.methods if _objective(row) is not None]
        # A cell that was never attacked would stand before all that were.
        audited = bool(known) and all(_objective(row, audited=True) is not None for row in known)
        for row in known:
            if (value := _objective(row, audited)) is not None:
                by_method.setdefault(row.label, []).append((value, row))
        if all(len(cells) < 2 for cells in by_method.values()):
            continue
        best = [(max(cells, key=lambda cell: cell[0]), len(cells)) for cells in by_method.values()]
        best.sort(key=lambda each: -each[0][0])
        found += [BestCell(block.model, row, count, value, audited) for (value, row), count in best]
    return tuple(found)


def _objective(row: Row, audited: bool = False) -> float | None:
    """Mean of `forget_cheaply`, or of `audited`, over a row's trials; None where one has none."""
    values = [_of_trial(trial) for trial in row.trials]
    if audited:
        shares = [None if trial.audit is None else trial.audit.after.share for trial in row.trials]
        values = [with_came_back(*both) for both in zip(values, shares, strict=True)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _of_trial(trial: ReportedTrial) -> float | None:
    result, stop = trial.measured, trial.settings.get("stop")
    if result is None or result.after is None or stop is None:
        return None
    try:
        rule = StopConfig.model_validate(stop)
    except ValidationError:  # a damaged file, or one of another version
        return None
    return objective_of(result.after, result.before, rule)
