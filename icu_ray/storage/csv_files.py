"""CSV that people open: no cell of it is a formula that a spreadsheet would run.

data = csv_bytes(["text", "MA"], [["=HYPERLINK(...)", 0.5]])        # the first cell becomes '=HYPERLINK(...)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_RUN = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\x1b")
"""What a formula (also in letters of full width) or a terminal's command begins with."""


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table as UTF-8: None is an empty cell, numbers are exact, texts are guarded (`guarded`)."""
    lines = [_line(header), *(_line(row) for row in rows)]
    return "".join(lines).encode("utf-8", "replace")


def filled(header: Sequence[str], rows: Sequence[Sequence[object]]) -> tuple[list[str], list[list[object]]]:
    """A table without the columns that are empty in all rows; one without rows keeps its header."""
    kept = [place for place in range(len(header)) if not rows or any(row[place] not in (None, "") for row in rows)]
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def guarded(text: str) -> str:
    """A text that a spreadsheet shows and does not run: one that begins like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(_RUN) or text.lstrip().startswith(_RUN) else text


def _line(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    # A writer whose lines end in "\n" alone leaves "\r" inside a cell unquoted, where spreadsheets begin a new row.
    csv.writer(buffer, lineterminator="\r\n").writerow(
        ["" if cell is None else guarded(cell) if isinstance(cell, str) else cell for cell in cells]
    )
    return buffer.getvalue().removesuffix("\r\n") + "\n"
