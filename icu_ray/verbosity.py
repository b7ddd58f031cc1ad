"""How much a command says beside its results: nothing, what goes on, or what the libraries log as well.

--quiet and --verbose choose it, or ICU_RAY_VERBOSITY (quiet, normal, verbose) for a process and all that it starts.

    with chosen("quiet"): say = teller(); say("loading the model")      # says nothing
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, cast, get_args

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
def bar() -> Iterator[Callable[[str, float | None], None]]:
    """A bar on standard error with the time left, where that is a terminal and not quiet; yields what moves it."""
    if verbosity() == "quiet" or not sys.stderr.isatty():
        yield lambda stage, part: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def move(stage: str, part: float | None) -> None:
            if progress.tasks[0].description != stage:
                progress.reset(task, description=stage)
            progress.update(task, completed=part or 0.0, total=None if part is None else 1.0)

        yield move


def add_options(parser: Any) -> None:
    """--quiet and --verbose, as `verbosity` in what is parsed."""
    options = parser.add_mutually_exclusive_group()
    options.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const="quiet", help="say the results and errors alone"
    )
    options.add_argument(
        "-v", "--verbose", dest="verbosity", action="store_const", const="verbose", help="say what is logged as well"
    )
