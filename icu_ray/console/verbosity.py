"""How much a command says beside its results: nothing, what goes on, or what the libraries log as well.

--quiet and --verbose choose it, or ICU_RAY_VERBOSITY (quiet, normal, verbose) for a process and all that it starts.

    with chosen("quiet"): say = teller(); say("loading the model")      # says nothing
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO, cast, get_args

from icu_ray.console.progress import TELL_SECONDS, Clock, Listener, line, listening
from icu_ray.console.redirect import lasting
from icu_ray.errors import UserError

Verbosity = Literal["quiet", "normal", "verbose"]
VARIABLE = "ICU_RAY_VERBOSITY"


def verbosity() -> Verbosity:
    """The chosen one; UserError where the variable holds another word."""
    found = os.environ.get(VARIABLE) or "normal"
    if found not in get_args(Verbosity):
        raise UserError(f"{VARIABLE}: expected quiet, normal or verbose, found '{found}'")
    return cast("Verbosity", found)


@contextlib.contextmanager
def chosen(value: Verbosity | None) -> Iterator[None]:
    """Inside, `value` holds, also for processes that are started; None: what held before."""
    before = os.environ.get(VARIABLE)
    if value is not None:
        os.environ[VARIABLE] = value
    try:
        verbosity()
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


LOOKING = "looking at the config, its models and its data ..."
"""What a command says at once, before it imports what takes a second."""


def teller(terminal_only: bool = False) -> Callable[[str], None]:
    """Prints lines to standard error, but none when quiet. terminal_only: into a file or pipe only when verbose."""

    def say(line: str) -> None:
        level = verbosity()
        if level == "verbose" or (level == "normal" and (not terminal_only or sys.stderr.isatty())):
            sys.stderr.write(f"{line}\n")

    return say


@contextlib.contextmanager
def bar(above: bool = True) -> Iterator[None]:
    """Show what this thread tells of its progress, with the time left: as a bar on standard error, as it is now.

    Nothing where that is no terminal, but with --verbose lines: each stage, and how far it is every half minute.
    Nothing with --quiet. above: what is written to standard output and error meanwhile stands above the bar; False
    where it goes elsewhere.
    """
    level, is_terminal = verbosity(), sys.stderr is not None and sys.stderr.isatty()
    if level == "quiet" or sys.stderr is None or (level == "normal" and not is_terminal):
        with listening(lambda stage, part: None):
            yield
        return
    with _own_stderr() as stream:
        if not is_terminal:
            with listening(_lines(stream), TELL_SECONDS):
                yield
            return
        with _moved(stream, above) as move, listening(move):
            yield


@contextlib.contextmanager
def _own_stderr() -> Iterator[TextIO]:
    """Standard error under a descriptor of its own: libraries' words may be sent elsewhere meanwhile."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except OSError:  # a notebook's, which is no file
        yield sys.stderr
        return
    with lasting(descriptor) as stream:
        yield stream


def _lines(stream: TextIO) -> Listener:
    """Writes a line each time."""
    clock = Clock()

    def say(stage: str, part: float | None) -> None:
        clock.left(stage, part)
        stream.write(f"{line(stage, part, clock.words())}\n")

    return say


@contextlib.contextmanager
def _moved(stream: TextIO, above: bool) -> Iterator[Listener]:
    """What moves a bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"))
    console = Console(file=stream)
    with Progress(*columns, console=console, transient=True, redirect_stdout=above, redirect_stderr=above) as progress:
        clock, shown = Clock(), ("", False, TaskID(0))

        def move(stage: str, part: float | None) -> None:
            nonlocal shown
            clock.left(stage, part)
            if shown[:2] != (stage, part is None):
                for task in progress.task_ids:
                    progress.remove_task(task)
                total = None if part is None else 1.0
                shown = stage, part is None, progress.add_task(stage, total=total, said="")
            said = "" if part is None else " ".join(filter(None, (f"{100 * part:3.0f} %", clock.words())))
            progress.update(shown[2], completed=part or 0.0, said=said)

        yield move


def add_options(parser: Any) -> None:
    """--quiet and --verbose, as `verbosity` in what is parsed."""
    options = parser.add_mutually_exclusive_group()
    options.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const="quiet", help="print only results and errors"
    )
    options.add_argument(
        "-v", "--verbose", dest="verbosity", action="store_const", const="verbose", help="print the log too"
    )
