"""Forgetting curves and active targets, epoch by epoch.

    figure = forgetting(report, theme)

A thin line is one trial, the thick one the mean of its row. A trial that has stopped keeps its last value in the mean:
its model does not change any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from icu_ray.report.contents import Report
from icu_ray.report.figures.theme import Style, Theme, legend_below, panels, styles
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.report.numbers.thresholds import all_thresholds
from icu_ray.storage.el_names import ngrams_of
from icu_ray.storage.results import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS_WITH_TRIALS = 6
"""With more rows than this in a panel, single trials would hide the means."""


def curved(block: Block) -> bool:
    """Whether any trial of a model has a history to draw."""
    return any(len(trial.history) > 1 for row in block.methods for trial in row.trials)


def forgetting(report: Report, theme: Theme) -> Figure:
    """MA and EL (a line of panels for each n) in percent by epoch, with the thresholds: a column a model."""
    blocks = [block for block in report.blocks if curved(block)]
    looks = styles(theme, report.blocks)
    limits = all_thresholds(report.found.configs)
    measures: tuple[tuple[str, str, Callable[[EpochRecord], float | None]], ...] = (
        ("ma", "MA (%)", lambda record: record.scores.ma),
        *((f"el{n}", f"EL{n} (%)", partial(_el, ngram=n)) for n in _ngrams(blocks)),
    )
    figure, grid = panels(len(measures), len(blocks))
    for line, (key, heading, read) in zip(grid, measures, strict=True):
        for axis, block in zip(line, blocks, strict=True):
            for row in block.methods:
                _curve(axis, row, looks[row.name], read, trials=len(block.methods) <= _ROWS_WITH_TRIALS)
            if key in limits:
                axis.axhline(limits[key], color=theme.ink, linewidth=1, linestyle=(0, (1, 2)), label="threshold")
            _finish(axis, block, heading, line is grid[0], line is grid[-1])
            axis.set_ylim(0, None)
    legend_below(figure, [axis for line in grid for axis in line], 2 * len(blocks))
    return figure


def _ngrams(blocks: Sequence[Block]) -> tuple[int, ...]:
    return ngrams_of(
        record.scores
        for block in blocks
        for row in block.methods
        for trial in row.trials
        for record in trial.history
        if record.scores.el is not None
    )


def _el(record: EpochRecord, ngram: int) -> float | None:
    return record.scores.el if record.scores.ngram == ngram else None


def active(report: Report, theme: Theme) -> Figure:
    """Number of targets still trained on after each epoch (iterative refinement, section IV-D)."""
    from matplotlib.ticker import MaxNLocator

    blocks = [block for block in report.blocks if curved(block)]
    looks = styles(theme, report.blocks)
    figure, grid = panels(1, len(blocks))
    for axis, block in zip(grid[0], blocks, strict=True):
        sizes = [len(trial.samples) for row in block.methods for trial in row.trials if trial.samples]
        for row in block.methods:
            _curve(axis, row, looks[row.name], lambda record: float(record.active), scale=1, trials=False)
        if sizes:
            axis.axhline(max(sizes), color=theme.faint, linewidth=1, label="whole forget sample")
        _finish(axis, block, "active targets", True, True)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_ylim(0, None)
    legend_below(figure, grid[0], 2 * len(blocks))
    return figure


def _finish(axis: Axes, block: Block, heading: str, top: bool, bottom: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if top:
        axis.set_title(block.model)
    if bottom:
        axis.set_xlabel("epoch")
    axis.set_ylabel(heading)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis.grid(axis="y")


def _curve(
    axis: Axes,
    row: Row,
    style: Style,
    read: Callable[[EpochRecord], float | None],
    *,
    scale: float = 100,
    trials: bool = True,
) -> None:
    lines = []
    for trial in row.trials:
        points = [(record.epoch, value) for record in trial.history if (value := read(record)) is not None]
        if points:
            lines.append((trial, [(epoch, scale * value) for epoch, value in points]))
    if trials and len(lines) > 1:
        for _, line in lines:
            axis.plot(*zip(*line, strict=True), color=style.color, alpha=0.35, linewidth=0.8)
    ended = [line for trial, line in lines if trial.measured is not None]
    if lines:
        # A trial that broke off has not come to rest at its last value, so it counts only where nothing has ended.
        mean = mean_curve(ended or [line for _, line in lines])
        axis.plot(
            *zip(*mean, strict=True),
            color=style.color,
            linestyle=style.line,
            marker=style.marker,
            markersize=4,
            markevery=max(1, len(mean) // 6),
            label=row.name,
        )


def mean_curve(lines: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean of curves of (epoch, value) at every epoch of any; a curve that has ended keeps its last value."""
    epochs = sorted({epoch for line in lines for epoch, _ in line})
    mean = []
    for epoch in epochs:
        known = [[value for at, value in line if at <= epoch] for line in lines]
        values = [line[-1] for line in known if line]
        mean.append((epoch, sum(values) / len(values)))
    return mean
