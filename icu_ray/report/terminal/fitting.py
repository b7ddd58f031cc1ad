"""A table as wide as the terminal: columns that are worth least are left out where there is no room for them.

    print_fitting(console, [Heading("trial"), Heading("MA %", right=True), Heading("epochs", spare=1)], rows)

What is left out is said below, with where it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from icu_ray.console.terminal import UNBOUNDED, print_words


@dataclass(frozen=True)
class Heading:
    """A column. spare: 0 is never left out; of the others the highest goes first."""

    name: str
    right: bool = False
    spare: int = 0


def print_fitting(
    console: Console, headings: Sequence[Heading], rows: Sequence[Sequence[str]], *, title: str = "", where: str = ""
) -> None:
    """Print rows of rich markup. where: what has the columns that are left out; nothing is said without."""
    table, said = fitted(console, headings, rows, where=where)
    if title:
        console.print(title, style="italic", markup=False)
    console.print(table)
    if said:
        print_words(console, said, "dim")


def fitted(
    console: Console, headings: Sequence[Heading], rows: Sequence[Sequence[str | Text]], *, where: str = ""
) -> tuple[Table, str]:
    """The table as wide as the console allows, and what to say below it of columns that are left out."""
    shown = list(range(len(headings)))
    unbounded = console.options.update(max_width=UNBOUNDED)
    while Measurement.get(console, unbounded, table := _table(headings, rows, shown)).maximum > console.width:
        spare = [place for place in shown if headings[place].spare]
        if not spare:
            break
        shown.remove(max(spare, key=lambda place: headings[place].spare))
    left_out = ", ".join(heading.name for place, heading in enumerate(headings) if place not in shown)
    return table, f"Left out (narrow terminal): {left_out}; see {where}." if left_out and where else ""


def _table(headings: Sequence[Heading], rows: Sequence[Sequence[str | Text]], shown: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False)
    for place in shown:
        heading = headings[place]
        table.add_column(heading.name, justify="right" if heading.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(row[place] for place in shown))
    return table
