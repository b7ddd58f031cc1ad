"""Where what is printed goes: a log file in place of the terminal, and a terminal whose loss ends nothing.

with redirected_output(Path("logs/driver.log")) as terminal: terminal.write("2 of 12 trials\n")
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Lasting(io.FileIO):
    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def lasting(descriptor: int, *, closefd: bool = True) -> TextIO:
    """A text stream that loses what cannot be written: its reader (head, a terminal that was closed) may be gone."""
    raw = _Lasting(descriptor, "w", closefd=closefd)
    return io.TextIOWrapper(io.BufferedWriter(raw), errors="backslashreplace", line_buffering=True)


@contextlib.contextmanager
def redirected_output(log_file: Path) -> Iterator[TextIO]:
    """What this process and its children print goes to `log_file`; yields the real terminal, or what is left of it."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    saved = os.dup(1), os.dup(2)
    terminal = lasting(os.dup(saved[0]))
    with log_file.open("ab", buffering=0) as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in saved:
            os.close(descriptor)
        terminal.close()
