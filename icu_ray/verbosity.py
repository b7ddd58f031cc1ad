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


def teller(terminal_only: bool = False) -> Callable[[str], None]:
    """Prints lines to standard error, but none when quiet. terminal_only: into a file or pipe only when verbose."""

    def say(line: str) -> None:
        level = verbosity()
        if level == "verbose" or (level == "normal" and (not terminal_only or sys.stderr.isatty())):
            sys.stderr.write(f"{line}\n")

    return say


@contextlib.contextmanager
def bar(above: bool = True) -> Iterator[Callable[[str, float | None], None]]:
    """A bar with the time left on standard error, as it is now; yields what moves it. None where that is no terminal.

    Into a file or pipe --verbose writes the stages' names; --quiet shows nothing. above: what is written to standard
    output and error meanwhile stands above the bar; False where it goes elsewhere.
    """
    level, is_terminal = verbosity(), sys.stderr.isatty()
    if level == "quiet" or (level == "normal" and not is_terminal):
        yield lambda stage, part: None
        return
    # Libraries' own words may be sent elsewhere meanwhile.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1) as stream:
        if not is_terminal:
            yield _names_of_stages(stream)
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = Console(file=stream)
        with Progress(
            *columns, console=console, transient=True, redirect_stdout=above, redirect_stderr=above
        ) as progress:
            task = progress.add_task("", total=None)

            def move(stage: str, part: float | None) -> None:
                if progress.tasks[0].description != stage:
                    progress.reset(task, description=stage)
                progress.update(task, completed=part or 0.0, total=None if part is None else 1.0)

            yield move


def _names_of_stages(stream: TextIO) -> Callable[[str, float | None], None]:
    said = ""

    def say(stage: str, part: float | None) -> None:
        nonlocal said
        if stage != said:
            said = stage
            stream.write(f"{stage}\n")

    return say


def add_options(parser: Any) -> None:
    """--quiet and --verbose, as `verbosity` in what is parsed."""
    options = parser.add_mutually_exclusive_group()
    options.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const="quiet", help="say the results and errors alone"
    )
    options.add_argument(
        "-v", "--verbose", dest="verbosity", action="store_const", const="verbose", help="say what is logged as well"
    )
