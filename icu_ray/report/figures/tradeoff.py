"""Forgetting against utility, the grid of weights, and what each part of the loss is worth.

front = pareto([(40.0, 1.2), (55.0, 1.1), (60.0, 1.3)])      # [0, 1]: the third is worse in both
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icu_ray.report.contents import Report
from icu_ray.report.figures.theme import Theme, legend_below, panels, styles
from icu_ray.report.numbers.columns import ALL_COLUMNS, HELDOUT, PPL_RATIO, Column
from icu_ray.report.numbers.comparison import reference_row
from icu_ray.report.numbers.rows import Block, Row
from icu_ray.report.numbers.thresholds import all_thresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMN = {column.key: column for column in ALL_COLUMNS}
_WIDE = 10.0
"""Perplexity ratios that span more than this are drawn on a logarithmic axis."""

_WHOLE_CELLS = 3


def forgetting_columns(blocks: Sequence[Block]) -> tuple[Column, ...]:
    """MA and EL, of each n that there is."""
    own = {column.key: column for block in blocks for column in block.el_columns}
    measured = [c for c in own.values() if any(row.values[c.key] for block in blocks for row in block.rows)]
    return (_COLUMN["ma"], *(sorted(measured, key=lambda column: column.ngram or 0) or list(own.values())[:1]))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both coordinates (lower is better), by the first coordinate."""

    def beaten(mine: tuple[float, float]) -> bool:
        return any(o[0] <= mine[0] and o[1] <= mine[1] and o != mine for o in points)

    front = [place for place, point in enumerate(points) if not beaten(point)]
    return sorted(front, key=lambda place: points[place])


def _utility(block: Block) -> Column | None:
    known = [c for c in (PPL_RATIO, HELDOUT) if sum(row.values[c.key] is not None for row in block.methods) > 0]
    return known[0] if known else None


def traded(block: Block) -> bool:
    """Whether a model has a method with forgetting and utility measured."""
    column = _utility(block)
    return column is not None and any(row.values["ma"] and row.values[column.key] for row in block.methods)


def tradeoff(report: Report, theme: Theme) -> Figure:
    """MA and EL after unlearning against held-out perplexity; small points are trials, large ones their mean."""
    blocks = [block for block in report.blocks if traded(block)]
    looks = styles(theme, report.blocks)
    forgetting = forgetting_columns(blocks)
    figure, grid = panels(len(blocks), len(forgetting), width=3.9, height=3.0)
    limits = all_thresholds(report.found.configs)
    for line, block in zip(grid, blocks, strict=True):
        utility = _utility(block)
        assert utility is not None
        for axis, forgot in zip(line, forgetting, strict=True):
            key, points = forgot.key, []
            for row in block.methods:
                mean_x, mean_y = row.values[key], row.values[utility.key]
                if mean_x is None or mean_y is None:
                    continue
                style = looks[row.name]
                for cell in row.cells.values() if len(row.cells) > 1 else ():
                    x, y = cell[key], cell[utility.key]
                    if x is not None and y is not None:
                        axis.plot(x, y, style.marker, color=style.color, alpha=0.4, markersize=4)
                points.append((mean_x.mean, mean_y.mean))
                axis.plot(
                    *points[-1],
                    style.marker,
                    color=style.color,
                    markersize=9,
                    markeredgecolor=theme.paper,
                    label=row.name,
                    zorder=3,
                )
            front = [points[place] for place in pareto(points)]
            across, up = [x for x, _ in front], [y for _, y in front]
            axis.step(across, up, where="post", color=theme.ink, linewidth=1, label="Pareto front")
            if key in limits:
                axis.axvline(limits[key], color=theme.ink, linewidth=1, linestyle=(0, (1, 2)), label="threshold")
            points += _gold_standard(axis, block, key, utility.key, theme)
            points += _before(axis, block, key, utility, theme)
            _finish_tradeoff(axis, block, forgot, utility, [y for _, y in points])
    legend_below(figure, [axis for line in grid for axis in line], 4)
    return figure


def _gold_standard(axis: Axes, block: Block, x: str, y: str, theme: Theme) -> list[tuple[float, float]]:
    """Mark the model that never read the texts, which is where a perfect method would end; its place, or none."""
    places = [(row.values[x], row.values[y]) for row in block.rows if row.gold]
    known = [(across.mean, up.mean) for across, up in places if across is not None and up is not None]
    for place in known:
        look: dict[str, Any] = {
            "markerfacecolor": "none",
            "markeredgecolor": theme.ink,
            "markeredgewidth": 1.5,
            "zorder": 4,
        }
        axis.plot(*place, "*", markersize=14, linestyle="none", label="retrained", **look)
    return known


def _before(axis: Axes, block: Block, x: str, utility: Column, theme: Theme) -> list[tuple[float, float]]:
    """Mark the model before unlearning, whose perplexity ratio is 1; its place, or none."""
    row = next((row for row in block.rows if row.before), None)
    across = None if row is None else row.values[x]
    up = None if row is None else row.values[utility.key]
    height = 1.0 if utility is PPL_RATIO else None if up is None else up.mean
    if across is None or height is None:
        return []
    axis.plot(across.mean, height, "X", color=theme.ink, markersize=9, linestyle="none", label="before", zorder=4)
    return [(across.mean, height)]


def _finish_tradeoff(axis: Axes, block: Block, forgot: Column, utility: Column, heights: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_title(block.model)
    axis.set_xlabel(f"{forgot.heading} after {forgot.arrow}")
    axis.set_ylabel(f"{utility.heading} {utility.arrow}")
    axis.margins(0.12)
    axis.grid()
    if heights and min(heights) > 0 and max(heights) / min(heights) > _WIDE:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def grids(block: Block) -> dict[str, tuple[Row, ...]]:
    """By label, the rows of a method that has at least two values of alpha and two of beta."""
    found: dict[str, list[Row]] = {}
    for row in block.methods:
        if row.alpha is not None and row.beta is not None and not row.variant:
            found.setdefault(row.label, []).append(row)
    return {
        label: tuple(rows)
        for label, rows in found.items()
        if len({row.alpha for row in rows}) > 1 and len({row.beta for row in rows}) > 1
    }


def heat_maps(report: Report, theme: Theme) -> Figure:
    """alpha x beta for each model and method with a grid of cells; cells that were not run stay empty."""
    import numpy as np

    maps = [(block, label, rows) for block in report.blocks for label, rows in grids(block).items()]
    wanted = (*forgetting_columns([block for block, _, _ in maps]), PPL_RATIO)
    columns = [c for c in wanted if any(row.values[c.key] for _, _, rows in maps for row in rows)]
    figure, grid = panels(len(maps), len(columns), width=3.2, height=2.9)
    for line, (block, label, rows) in zip(grid, maps, strict=True):
        alphas, betas = (
            sorted({w for row in rows if (w := getattr(row, name)) is not None}) for name in ("alpha", "beta")
        )
        for axis, column in zip(line, columns, strict=True):
            table = np.full((len(alphas), len(betas)), np.nan)
            for row in rows:
                value = row.values[column.key]
                if value is not None and row.alpha is not None and row.beta is not None:
                    table[alphas.index(row.alpha), betas.index(row.beta)] = value.mean
            # Lower is better in all of them: dark is good.
            image = axis.imshow(table, cmap="cividis", origin="lower", aspect="auto")
            low, high = image.get_clim()
            for (i, j), value in np.ndenumerate(table):
                if not np.isnan(value):
                    bright = high > low and (value - low) / (high - low) > 0.55
                    shade = "#000000" if bright else "#ffffff"
                    axis.text(j, i, column.text(float(value)), ha="center", va="center", color=shade)
            axis.set_xticks(range(len(betas)), [f"{beta:g}" for beta in betas])
            axis.set_yticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
            axis.set_xlabel("β")
            axis.set_ylabel("α")
            axis.set_title(f"{column.heading} {column.arrow}\n{label}, {block.model}")
    return figure


def ablations(block: Block) -> tuple[Row, ...]:
    """ICU's rows without one or both of its losses, then with both; () where there is nothing to compare.

    Of a grid of whole cells only the one that tests refer to.
    """
    rows = [row for row in block.methods if row.method == "icu" and any(row.values.values())]
    whole = [row for row in rows if row.alpha and row.beta]
    cut = [row for row in rows if row not in whole]
    reference = reference_row(block.methods)
    if len(whole) > _WHOLE_CELLS and reference is not None:
        whole = [reference]
    return (*cut, *whole) if cut and whole else ()


def ablation_name(row: Row) -> str:
    """What of equation (6) a row has."""
    if row.alpha and row.beta:
        return f"ICU (α={row.alpha:g}, β={row.beta:g})"
    if not row.alpha and not row.beta:
        return "without both (gradient ascent)"
    return f"without learning loss (β={row.beta:g})" if not row.alpha else f"without KL (α={row.alpha:g})"


def ablation(report: Report, theme: Theme) -> Figure:
    """Bars of ICU with and without its losses (as Figure 3): a line of panels a model.

    Whiskers are 95 % intervals, of at least three values; fewer are drawn as points.
    """
    blocks = [block for block in report.blocks if ablations(block)]
    looks = styles(theme, report.blocks)
    wanted = (*forgetting_columns(blocks), _COLUMN["bert"], _COLUMN["entropy"], PPL_RATIO)
    columns = [c for c in wanted if any(row.values[c.key] for b in blocks for row in ablations(b))]
    heights = [0.8 + 0.28 * len(ablations(block)) for block in blocks]
    figure, grid = panels(len(blocks), len(columns), width=2.1, heights=heights)
    for line, block in zip(grid, blocks, strict=True):
        rows = ablations(block)[::-1]
        for place, (axis, column) in enumerate(zip(line, columns, strict=True)):
            for height, row in enumerate(rows):
                value = row.values[column.key]
                if value is None:
                    continue
                axis.barh(
                    height, value.mean, xerr=value.half, color=looks[row.name].color, height=0.7, ecolor=theme.ink
                )
                if value.half is None and value.n > 1:
                    points = [point for cell in row.cells.values() if (point := cell[column.key]) is not None]
                    axis.plot(
                        points, [height] * len(points), "o", color=theme.ink, markersize=4, markeredgecolor=theme.paper
                    )
            axis.set_yticks(range(len(rows)), [ablation_name(row) for row in rows] if place == 0 else [""] * len(rows))
            axis.set_title(f"{column.heading} {column.arrow}", fontsize=9)
            # Three samples give intervals that would squeeze the bars; such whiskers are cut.
            axis.set_xlim(0, 1.4 * max((v.mean for row in rows if (v := row.values[column.key])), default=1.0) or 1.0)
            axis.set_ylim(-0.6, len(rows) - 0.4)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x")
        line[0].set_ylabel(block.model)
    return figure
