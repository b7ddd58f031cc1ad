"""icu-ray status: a running or finished sweep, looked at from another terminal."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from icu_ray.commands.command import add_command, split_sweep

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
    parser.add_argument("--follow", action="store_true", help="renew until the driver has ended")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.live import Live

    from icu_ray.report.collect import collect
    from icu_ray.report.status import status_json, status_table

    folder = split_sweep(arguments.sweep)
    found = collect([folder])
    if arguments.json:
        print(json.dumps(status_json(found)))
        return 0
    console = Console(highlight=False)
    if not arguments.follow or not console.is_terminal:
        console.print(status_table(found))
    while arguments.follow and not console.is_terminal and found.sweeps[0].state == "running":
        time.sleep(REFRESH_SECONDS)
        found = collect([folder])
        if found.sweeps[0].state != "running":
            console.print(status_table(found))
    if arguments.follow and console.is_terminal:
        with Live(status_table(found), console=console, auto_refresh=False) as live:
            while found.sweeps[0].state == "running":
                time.sleep(REFRESH_SECONDS)
                found = collect([folder])
                live.update(status_table(found), refresh=True)
    return 0
