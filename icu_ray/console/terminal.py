"""How wide what is printed may be: lines are wrapped between words for a terminal, and left whole for a file or pipe.

print(wrapped("a long sentence", indent=4))

A path, URL or command is never cut in two: it must be possible to copy it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

UNBOUNDED = 10**6
"""Width of a file or pipe: one line stays one line."""
NARROWEST = 20
_QUOTED = re.compile(r"(?<!\w)'[^']+'(?!\w)")
_JOINED = "\0"
"""Stands for a blank at which no line is broken."""


def width(stream: TextIO | None = None) -> int:
    """Columns of the terminal that a stream is (None: standard output), UNBOUNDED for a file or pipe."""
    stream = sys.stdout if stream is None else stream
    if stream is None or not stream.isatty():
        return UNBOUNDED
    if "COLUMNS" not in os.environ:
        with contextlib.suppress(OSError, ValueError):  # no descriptor, or none of a terminal
            return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns
    return shutil.get_terminal_size().columns


def rich_console(stream: TextIO | None = None) -> Console:
    """Of a terminal's own width; one line stays one line in a file or pipe. What is printed is no markup by itself.

    A sentence is for `print_words`; a line that is nothing but a command or an address is to be printed with
    soft_wrap=True: the terminal breaks it, and it is one line for who copies it.
    """
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    return Console(file=stream, width=None if stream.isatty() else UNBOUNDED, highlight=False, emoji=False)


def whole(text: object) -> str:
    """A path or the like for `wrapped`, which breaks no line at its blanks."""
    return str(text).replace(" ", _JOINED)


def wrapped(text: str, indent: int = 0, columns: int | None = None) -> str:
    """`text` wrapped between words; all lines but the first are indented, for which the first has been already.

    What stands in quotes is one word, as it may be a command. A word that is too long for a line gets one of its own,
    which begins as far to the left as it must.
    """
    wide = columns or width()
    room = max(NARROWEST, wide - indent)
    lines = textwrap.wrap(
        _QUOTED.sub(lambda quoted: quoted[0].replace(" ", _JOINED), text),
        room,
        break_long_words=False,
        break_on_hyphens=False,
    )
    starts = [indent if len(line) <= room else min(indent, max(0, wide - len(line))) for line in lines]
    below = "".join(f"\n{' ' * start}{line}" for start, line in zip(starts, lines, strict=True)).replace(_JOINED, " ")
    return below.removeprefix("\n" + " " * indent)


def fitted(text: str, columns: int) -> str:
    """The lines of a text, of which those that are too long are wrapped between words as far in as they begin."""
    lines = []
    for line in text.split("\n"):
        words = line.lstrip(" ")
        begin = line[: len(line) - len(words)]
        short = len(line) <= columns
        lines.append(line.replace(_JOINED, " ") if short else begin + wrapped(words, len(begin), columns))
    return "\n".join(lines)


def print_words(console: Console, text: str, style: str = "") -> None:
    """Lines as they are for a file or pipe, wrapped between words for a terminal; paths and quoted text stay whole."""
    wide = console.width if console.is_terminal else UNBOUNDED
    console.print(fitted(text, wide), style=style, markup=False, soft_wrap=True)


def columns(rows: Sequence[Sequence[str]], headings: Sequence[str] = ()) -> str:
    """Rows of words as columns. The last one is wrapped, and any other that would take a third of the width."""
    every = [headings, *rows] if headings else list(rows)
    room = (width() - NARROWEST) // max(1, len(every[0]) - 1) - 2
    widest = max(12, min(room, width() // 3))
    widths = [min(widest, max(len(row[place]) for row in every)) for place in range(len(every[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for *short, last in every:
        cells = [textwrap.wrap(word, max(wide, 1)) for word, wide in zip(short, widths, strict=True)]
        for *before, end in itertools.zip_longest(*cells, wrapped(last, indent).split("\n"), fillvalue=""):
            begin = "".join(f"{part:<{wide}}  " for part, wide in zip(before, widths, strict=True))
            lines.append((begin + end.lstrip() if begin.strip() else end).rstrip())
    return "\n".join(lines)
