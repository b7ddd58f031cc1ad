"""What comes back over the budget of each attack, as small panels: a line a row of the main table.

    figure = comes_back(table, report, theme)

A point is the worst setting that took no more than its budget, mean over the row's trials. Dotted: the original model;
dashed: the retrained one; broad and grey: control rows, which no model has read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeAlias

from icu_ray.config.auditing import FALLING, strength
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
_TICKS = 8
_BY_ROLE: tuple[tuple[Role, str, Any, str], ...] = (
    ("original", "original", (0, (1, 2)), "x"),
    ("retrained", "retrained", (0, (5, 3)), "*"),
)
Curve: TypeAlias = list[tuple[float, float]]


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
        points = [point for line in table.lines for point in line.audit.curves if point.attack == attack]
        budgets = sorted({point.budget for point in points}, key=partial(strength, attack))
        control = [worst_until(line, attack, budgets, _control) for line in table.lines]
        _draw(axis, control, label="control rows", color=theme.faint, linewidth=4)
        for row in rows:
            own = [worst_until(line, attack, budgets) for line in table.unlearned if line.row == row]
            look = looks[row]
            _draw(axis, own, label=row, color=look.color, linestyle=look.line, marker=look.marker)
        for role, label, dashes, marker in _BY_ROLE:
            own = [worst_until(line, attack, budgets) for line in table.lines if line.role == role]
            _draw(axis, own, label=label, color=theme.ink, linestyle=dashes, marker=marker)
        _finish(axis, attack, points[0].unit, budgets)
    for axis in axes[len(table.attacks) :]:
        axis.set_visible(False)
    legend_below(figure, axes[: len(table.attacks)], 2 * across)
    return figure


def _forget(point: AuditPoint) -> float | None:
    return point.back / point.total


def _control(point: AuditPoint) -> float | None:
    return point.control_back / point.control_total if point.control_total else None


def worst_until(
    line: AuditLine, attack: str, budgets: Sequence[float], read: Callable[[AuditPoint], float | None] = _forget
) -> Curve:
    """(budget, per cent back under the worst setting until then) from the first budget on that the line has.

    budgets: of all lines, in the order in which the attack gets stronger; one that this line was not asked at, for it
    brought nothing more, has the value before it. [] where answers are missing and nothing is back.
    """
    points = [point for point in line.audit.curves if point.attack == attack]
    if attack in line.audit.unanswered and not any(point.back for point in points):
        return []
    curve: Curve = []
    for budget in budgets:
        here = [100 * value for point in points if point.budget == budget and (value := read(point)) is not None]
        if here or curve:
            curve.append((budget, max(here + [most for _, most in curve[-1:]])))
    return curve


def mean_of(curves: Sequence[Curve]) -> Curve:
    """Mean at every budget that all of these curves have."""
    known = [dict(curve) for curve in curves if curve]
    common = [budget for budget in known[0] if all(budget in each for each in known)] if known else []
    return [(budget, fmean(each[budget] for each in known)) for budget in common]


def _draw(axis: Axes, curves: Sequence[Curve], linewidth: float = 1.4, **style: Any) -> None:
    mean = mean_of(curves)
    if mean:
        every = max(1, len(mean) // 8)
        axis.plot(*zip(*mean, strict=True), linewidth=linewidth, markersize=4, markevery=every, **style)


def _finish(axis: Axes, attack: str, unit: str, budgets: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_title(attack.replace("_", " "), fontsize=9)
    axis.set_xlabel(unit, fontsize=8)
    axis.set_ylabel("rows back (%)", fontsize=8)
    axis.set_ylim(-4, 104)
    axis.grid(axis="y")
    above = sorted(budget for budget in budgets if budget > 0)
    wide = bool(above) and above[-1] / above[0] >= _WIDE

    def place(budget: float) -> float:
        """Where a budget stands; on a logarithmic axis 0 is as far from the first one as that from its double."""
        if not wide:
            return budget
        return math.log2(budget / above[0]) + 1 if budget >= above[0] else budget / above[0]

    def budget_at(at: float) -> float:
        return at if not wide else above[0] * (2 ** (at - 1) if at >= 1 else at)

    if wide:
        import numpy as np

        axis.set_xscale("function", functions=(np.vectorize(place), np.vectorize(budget_at)))
    ends = sorted((place(budgets[0]), place(budgets[-1])))
    room = 0.04 * (ends[1] - ends[0]) or 0.5
    axis.set_xlim(budget_at(ends[0] - room), budget_at(ends[1] + room))
    ticks: list[float] = []
    for budget in sorted(budgets):
        if not ticks or place(budget) - place(ticks[-1]) >= (ends[1] - ends[0]) / _TICKS:
            ticks.append(budget)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if attack in FALLING:
        axis.invert_xaxis()
