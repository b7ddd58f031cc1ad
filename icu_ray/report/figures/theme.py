"""How figures look: one colour and marker a method in every figure, for print and for a dark page.

    figure, axes = panels(LIGHT, rows=1, columns=2)
    style = styles(block)["icu (0.5, 1)"]

Colours are Okabe and Ito's, told apart by the colour-blind; cells of one method share its colour and differ in line
and marker, so that nothing is said by colour alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icu_ray.report.numbers.rows import Block, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150


@dataclass(frozen=True)
class Theme:
    """Ink and paper of a figure; colours by method name, then a rest for methods of other packages.

    shades: how far a method's cells go from its colour, towards white and towards black, at least 3:1 to the paper.
    """

    name: str
    paper: str
    ink: str
    faint: str
    methods: tuple[tuple[str, str], ...]
    rest: tuple[str, ...]
    shades: tuple[float, float]
    leaked: str


LIGHT = Theme(
    "light",
    "#ffffff",
    "#1b1f24",
    "#c9ced6",
    (
        ("icu", "#0072b2"),
        ("kumpr", "#d55e00"),
        ("kl", "#009e73"),
        ("llmu", "#aa4f8a"),
        ("po", "#b37700"),
        ("dpo", "#3d93c9"),
        ("npo", "#5f5f5f"),
    ),
    ("#7a5195", "#ae2f2f", "#3f7f4f", "#8a6d00", "#00798c", "#4b5ea8"),
    (0.05, 0.6),
    "#ffd9b3",
)
DARK = Theme(
    "dark",
    "#16191e",
    "#e4e7eb",
    "#4a515b",
    (
        ("icu", "#5cb3ea"),
        ("kumpr", "#f08a3c"),
        ("kl", "#2ecc9f"),
        ("llmu", "#e08fc2"),
        ("po", "#e6b33c"),
        ("dpo", "#9ad0f2"),
        ("npo", "#b5b5b5"),
    ),
    ("#b79ce0", "#f07f7f", "#8fd19e", "#d8c25c", "#5fc6d3", "#93a8f0"),
    (0.6, 0.25),
    "#6b4416",
)
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")


@dataclass(frozen=True)
class Style:
    """How one row is drawn wherever it appears."""

    color: str
    line: str
    marker: str


def styles(theme: Theme, blocks: Sequence[Block]) -> dict[str, Style]:
    """A style for every row name of all blocks: a name looks the same for every model.

    Cells of one method are shades of its colour. ICU without one of its losses is drawn as a method of its own. The
    methods that have no colour of their own share a few, and those that share one differ in marker and line.
    """
    families: dict[str, list[str]] = {}
    for row in (row for block in blocks for row in block.methods):
        members = families.setdefault(_family(row), [])
        if row.name not in members:
            members.append(row.name)
    colors = dict(theme.methods)
    unknown = [family for family in families if family not in colors]
    colors |= {family: theme.rest[place % len(theme.rest)] for place, family in enumerate(unknown)}
    rounds = {family: place // len(theme.rest) for place, family in enumerate(unknown)}
    # Lines move on by one and markers by two, so that cells of two methods with one colour do not have both alike.
    lines = {family: 1 + round_ for family, round_ in rounds.items()}
    markers = {family: 1 + 2 * round_ for family, round_ in rounds.items()}
    return {
        name: Style(
            _shade(theme, colors[family], place, len(names)),
            _LINES[(lines.get(family, 0) + place) % len(_LINES)],
            _MARKERS[(markers.get(family, 0) + place) % len(_MARKERS)],
        )
        for family, names in families.items()
        for place, name in enumerate(names)
    }


def _family(row: Row) -> str:
    if row.method != "icu" or (row.alpha and row.beta):
        return row.method
    if not row.alpha and not row.beta:
        return "kumpr"  # equation (6) without both losses is KUMPR's
    return "icu without learning loss" if not row.alpha else "icu without KL"


def _shade(theme: Theme, color: str, place: int, count: int) -> str:
    """The place-th of count shades, from light to dark around the colour itself."""
    from matplotlib.colors import to_hex, to_rgb

    if count == 1:
        return color
    lightest, darkest = theme.shades
    amount = lightest - (lightest + darkest) * place / (count - 1)
    towards = 1.0 if amount > 0 else 0.0
    red, green, blue = (c + (towards - c) * abs(amount) for c in to_rgb(color))
    return str(to_hex((red, green, blue)))


def _settings(theme: Theme) -> Any:
    return {
        "text.parse_math": False,  # names and texts may hold dollar signs
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "figure.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "text.color": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": theme.faint,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.8,
        "svg.hashsalt": "icu_ray",
        "svg.fonttype": "none",  # text stays text, to be found and edited
        "pdf.fonttype": 42,  # TrueType: journals refuse the default, Type 3
    }


FORMATS: Mapping[str, Mapping[str, Any]] = {
    "png": {"dpi": DPI, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
"""How figures are written, by the end of the file's name: nothing in it depends on the time."""


def render(draw: Any, theme: Theme, formats: Sequence[str] = ("png",)) -> dict[str, bytes]:
    """A drawing function's figure, drawn once, as the bytes of each format."""
    import warnings

    import matplotlib

    with matplotlib.rc_context(_settings(theme)), warnings.catch_warnings():
        # A model may say characters that the font does not have; they are drawn as boxes and stand in the page.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure: Figure = draw(theme)
        # Placed once for all formats: every `savefig` of a figure that places itself draws it twice.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        written = {}
        for name in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name, **FORMATS[name])
            written[name] = buffer.getvalue()
    return written


def panels(
    rows: int, columns: int, *, width: float = 3.6, height: float = 2.7, heights: Sequence[float] | None = None
) -> tuple[Figure, list[list[Axes]]]:
    """A figure (never of pyplot, which keeps them) and its axes as rows of columns; inches a panel, or of each row."""
    from matplotlib.figure import Figure

    heights = heights or [height] * rows
    figure = Figure(figsize=(max(columns * width, 4.6), sum(heights)), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    return figure, [list(line) for line in grid]


def legend_below(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """One legend of all panels, below them."""
    known: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if known:
        # As many columns as the longest name leaves room for: a letter takes 0.07 inches, line and gaps 0.5.
        widest = 0.5 + 0.07 * max(map(len, known))
        count = max(1, min(len(known), max(2, columns), int(figure.get_figwidth() / widest)))
        # A legend of many lines makes the figure higher, and the panels no smaller.
        figure.set_figheight(figure.get_figheight() + 0.19 * max(0, math.ceil(len(known) / count) - 3))
        figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=count)
