"""icu-ray status: a running or finished sweep, looked at from another terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import add_command, split_sweep
from icu_ray.console.terminal import rich_console
from icu_ray.errors import UserError, without_secrets

if TYPE_CHECKING:
    from icu_ray.report.collect import Collected

REFRESH_SECONDS = 2.0


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "status",
        "Where a sweep stands: its driver, and each trial with its last epoch.",
        "icu-ray status runs/quickstart --follow",
        _status,
    )
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="the sweep's folder, <storage>/<name>")
    parser.add_argument("--follow", action="store_true", help="update until the sweep has ended (default: look once)")
    parser.add_argument("--json", action="store_true", help="print JSON, with --follow a line for each change")


def _status(arguments: argparse.Namespace) -> int:
    from rich.live import Live

    from icu_ray.report.collect import collect
    from icu_ray.report.terminal.status import status_json, status_table

    folder = split_sweep(arguments.sweep)
    try:
        found = collect([folder], unstarted=True)
    except OSError as error:
        raise UserError(without_secrets(f"{arguments.sweep}: cannot be read: {error}")) from error
    states = _until_the_end(folder, found) if arguments.follow else iter((found,))
    console = rich_console()
    if arguments.json:
        told = ""
        for found in states:
            line = json.dumps(status_json(found))
            if line != told:
                print(line, flush=True)
            told = line
    elif arguments.follow and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for found in states:
                live.update(status_table(found, console), refresh=True)
    else:
        console.print(status_table(found, console), soft_wrap=True)
        last = deque(states, maxlen=1)[0]
        if last is not found:
            console.print(status_table(last, console), soft_wrap=True)
    return 0


def _until_the_end(folder: tuple[str, str], found: Collected) -> Iterator[Collected]:
    """The sweep as it is now, and again and again until its driver has ended."""
    from icu_ray.report.collect import collect

    yield found
    seconds = 0.0
    while found.sweeps[0].state == "running":
        # A storage that answers slowly is not kept busy by being looked at.
        time.sleep(max(REFRESH_SECONDS, 5 * seconds))
        began = time.monotonic()
        with contextlib.suppress(OSError):  # away for a moment
            found = collect([folder], unstarted=True)
            yield found
        seconds = time.monotonic() - began
