"""What comes back over the budget of each attack, as small panels: a line a row of the main table.

    figure = comes_back(table, report, theme)

A point is the worst setting that took no more than its budget, mean over the row's trials. Dotted: the original model;
dashed: the retrained one; thin and grey: control rows, which no model has read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from icu_ray.report.contents import Report
from icu_ray.report.figures.theme import Theme, legend_below, panels, styles
from icu_ray.report.numbers.audits import AuditLine, AuditTable, Role
from icu_ray.storage.audits import AuditPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3
_WIDE = 8.0
"""Budgets above 0 that span this or more are drawn on a logarithmic axis."""
_TICKS = 7
_LESS_IS_MORE = ("quantise",)
"""Attacks whose budget falls: fewer bits are the stronger attack."""
_BY_ROLE: tuple[tuple[Role, str, Any], ...] = (
    ("original", "original", (0, (1, 2))),
    ("retrained", "retrained", (0, (5, 3))),
)
Curve = list[tuple[float, float]]


def came_back(table: AuditTable) -> bool:
    """Whether there is anything to draw: an attack that had a model speak."""
    return bool(table.attacks)


def comes_back(table: AuditTable, report: Report, theme: Theme) -> Figure:
    """A panel an attack, in per cent of the rows that were asked."""
    looks = styles(theme, report.blocks)
    across = min(_ACROSS, len(table.attacks))
    figure, grid = panels(math.ceil(len(table.attacks) / across), across, width=3.3, height=2.4)
    axes = [axis for line in grid for axis in line]
    rows = dict.fromkeys(line.row for line in table.unlearned)
    for axis, attack in zip(axes, table.attacks, strict=False):
        control = mean_of_worst([c for line in table.lines if (c := worst_by_budget(line, attack, _control))])
        if control:
            axis.plot(*zip(*control, strict=True), color=theme.faint, linewidth=4, label="control rows", zorder=1)
        for row in rows:
            own = [line for line in table.unlearned if line.row == row]
            look = looks[row]
            _draw(axis, own, attack, row, color=look.color, linestyle=look.line, marker=look.marker)
        for role, label, line_style in _BY_ROLE:
            own = [line for line in table.lines if line.role == role]
            marker = "x" if role == "original" else "*"
            _draw(axis, own, attack, label, color=theme.ink, linestyle=line_style, marker=marker)
        _finish(axis, attack, [p for line in table.lines for p in line.audit.curves if p.attack == attack])
    for axis in axes[len(table.attacks) :]:
        axis.set_visible(False)
    legend_below(figure, axes[: len(table.attacks)], 2 * across)
    return figure


def _forget(point: AuditPoint) -> float | None:
    return point.back / point.total


def _control(point: AuditPoint) -> float | None:
    return point.control_back / point.control_total if point.control_total else None


def worst_by_budget(line: AuditLine, attack: str, read: Callable[[AuditPoint], float | None] = _forget) -> Curve:
    """(budget, per cent back under the worst setting until then), in the order in which the attack gets stronger."""
    points = [point for point in line.audit.curves if point.attack == attack and read(point) is not None]
    curve: Curve = []
    most = 0.0
    for budget in sorted({point.budget for point in points}, reverse=attack in _LESS_IS_MORE):
        most = max(most, *(100 * (read(point) or 0.0) for point in points if point.budget == budget))
        curve.append((budget, most))
    return curve


def mean_of_worst(curves: Sequence[Curve]) -> Curve:
    """Mean at every budget that all of these curves have."""
    known = [dict(curve) for curve in curves]
    common = [budget for budget, _ in curves[0] if all(budget in each for each in known)] if curves else []
    return [(budget, fmean(each[budget] for each in known)) for budget in common]


def _draw(axis: Axes, lines: Sequence[AuditLine], attack: str, label: str, **style: Any) -> None:
    mean = mean_of_worst([curve for line in lines if (curve := worst_by_budget(line, attack))])
    if mean:
        every = max(1, len(mean) // 6)
        axis.plot(*zip(*mean, strict=True), label=label, markersize=4, markevery=every, linewidth=1.4, **style)


def _finish(axis: Axes, attack: str, points: Sequence[AuditPoint]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    budgets = sorted({point.budget for point in points})
    axis.set_title(attack.replace("_", " "), fontsize=9)
    axis.set_xlabel(points[0].unit, fontsize=8)
    axis.set_ylabel("rows back (%)", fontsize=8)
    axis.set_ylim(-4, 104)
    axis.grid(axis="y")
    above = [budget for budget in budgets if budget > 0]
    if above and above[-1] / above[0] >= _WIDE:
        # Linear up to the first budget, so that 0, the model as it is, has a place.
        axis.set_xscale("symlog", linthresh=above[0], linscale=0.4)
        axis.xaxis.set_minor_locator(NullLocator())
    step = math.ceil(len(budgets) / _TICKS)
    axis.xaxis.set_major_locator(FixedLocator(budgets[::step] if step > 1 else budgets))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if attack in _LESS_IS_MORE:
        axis.invert_xaxis()
