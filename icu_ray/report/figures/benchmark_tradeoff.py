"""Forgetting against utility as a benchmark measures them, with what another framework measured beside it.

if benchmark_panels(report): figure = benchmark_tradeoff(report, theme)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icu_ray.report.contents import Report
from icu_ray.report.figures.theme import Theme, legend_below, panels, styles
from icu_ray.report.figures.tradeoff import pareto
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.storage.imported import Imported

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tofu": (("forget_Q_A_Prob", "forget_Q_A_ROUGE", "extraction_strength"), ("model_utility", "retain_Q_A_Prob")),
    "muse": (("forget_verbmem_ROUGE", "forget_knowmem_ROUGE"), ("retain_knowmem_ROUGE",)),
    "rwku": (
        ("forget_level1_Q_A_ROUGE", "forget_level2_Q_A_ROUGE", "forget_level3_Q_A_ROUGE"),
        ("neighbor_level1_Q_A_ROUGE", "neighbor_level2_Q_A_ROUGE"),
    ),
}
"""By benchmark: what should be low, a panel each, and what should be high, of which the first that tells models apart
counts: model utility is 0 for all of them where one of its nine parts is, as of small stand-ins."""
_MARKERS = ("d", "p", "h", "8")
_Point = tuple[float, float]


@dataclass(frozen=True)
class _Line:
    """A model's panels of one benchmark."""

    block: Block
    benchmark: str
    forgot: tuple[str, ...]
    utility: str


def benchmark_panels(report: Report) -> tuple[_Line, ...]:
    """Of each model and benchmark of which a method has something of both sides."""
    lines = []
    for block in report.blocks:
        for benchmark, (low, high) in _SIDES.items():
            forgot = tuple(name for name in low if _measured(block, f"{benchmark}/{name}"))
            useful = [name for name in high if _measured(block, f"{benchmark}/{name}")]
            telling = [name for name in useful if any(_means(block, f"{benchmark}/{name}"))] or useful
            if forgot and telling:
                lines.append(_Line(block, benchmark, forgot, telling[0]))
    return tuple(lines)


def _means(block: Block, metric: str) -> list[float | None]:
    return [block.evaluated_mean(row, metric) for row in block.methods]


def _measured(block: Block, metric: str) -> bool:
    return any(value is not None for value in _means(block, metric))


def benchmark_tradeoff(report: Report, theme: Theme) -> Figure:
    """A line of panels for each model and benchmark; small points are trials, large ones their mean."""
    lines = benchmark_panels(report)
    looks = styles(theme, report.blocks)
    figure, grid = panels(len(lines), max(len(line.forgot) for line in lines), width=3.6, height=3.0)
    for axes, line in zip(grid, lines, strict=True):
        beside = imported_beside(report, line.block)
        for axis in axes[len(line.forgot) :]:
            axis.set_visible(False)
        for axis, forgot in zip(axes, line.forgot, strict=False):
            x, y = (f"{line.benchmark}/{name}" for name in (forgot, line.utility))
            points = []
            for row in line.block.methods:
                style = looks[row.name]
                if (place := _place(line.block, row, x, y)) is None:
                    continue
                points.append(place)
                each = [_both(metrics.get, x, y) for metrics in line.block.evaluated(row)]
                for point in each if len(each) > 1 else ():
                    if point is not None:
                        axis.plot(*point, style.marker, color=style.color, alpha=0.4, markersize=4)
                look = {"color": style.color, "markersize": 9, "markeredgecolor": theme.paper, "zorder": 3}
                axis.plot(*place, style.marker, linestyle="none", label=row.name, **look)  # type: ignore[arg-type]
            front = [points[place] for place in pareto([(low, -high) for low, high in points])]
            if front:
                across, up = zip(*front, strict=True)
                axis.step(across, up, where="post", color=theme.ink, linewidth=1, label="Pareto front")
            _others(axis, line.block, x, y, theme)
            _imported(axis, beside, forgot, line.utility, theme)
            axis.set_title(line.block.model)
            axis.set_xlabel(f"{forgot} ↓")
            axis.set_ylabel(f"{line.utility} ↑")
            axis.margins(0.12)
            axis.grid()
    legend_below(figure, [axis for axes in grid for axis in axes], 4)
    return figure


def imported_beside(report: Report, block: Block) -> list[Imported]:
    """What was imported of a model; where there is one model only, also what names none."""
    only = report.blocks[0].model if len(report.blocks) == 1 else ""
    return [each for each in report.found.imported if (each.model or only) == block.model]


def _both(read: Callable[[str], float | None], x: str, y: str) -> _Point | None:
    across, up = read(x), read(y)
    return None if across is None or up is None else (across, up)


def _place(block: Block, row: Row, x: str, y: str) -> _Point | None:
    return _both(lambda metric: block.evaluated_mean(row, metric), x, y)


def _others(axis: Axes, block: Block, x: str, y: str, theme: Theme) -> None:
    """The original and the retrained model."""
    for row in block.rows:
        place = _place(block, row, x, y) if row.before or row.gold else None
        if place is not None and row.before:
            axis.plot(*place, "X", color=theme.ink, markersize=9, linestyle="none", label="before", zorder=4)
        elif place is not None:
            axis.plot(*place, "*", markersize=14, linestyle="none", label="retrained", zorder=4, **_hollow(theme))  # type: ignore[arg-type]


def _imported(axis: Axes, beside: Sequence[Imported], x: str, y: str, theme: Theme) -> None:
    """Hollow marks, as nobody here measured them; they are on no front."""
    for number, each in enumerate(beside):
        place = _both(each.shown.get, x, y)
        if place is not None:
            marker = _MARKERS[number % len(_MARKERS)]
            label = f"{each.label} (imported)"
            axis.plot(*place, marker, markersize=9, linestyle="none", label=label, zorder=4, **_hollow(theme))  # type: ignore[arg-type]


def _hollow(theme: Theme) -> dict[str, object]:
    return {"markerfacecolor": "none", "markeredgecolor": theme.ink, "markeredgewidth": 1.5}
