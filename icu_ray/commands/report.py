"""icu-ray report: tables of a sweep."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icu_ray.commands.command import add_command, split_sweep
from icu_ray.errors import UserError


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "report",
        "Tables of a finished or unfinished sweep, from its folder.",
        "icu-ray report runs/quickstart",
        _report,
    )
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="the sweep's folder: <storage>/<name>")


def _report(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from icu_ray.report.tables import print_tables, summarise, write_tables
    from icu_ray.results import trial_ids

    storage, sweep = split_sweep(arguments.sweep)
    if not trial_ids(storage, sweep):
        raise UserError(f"{arguments.sweep}: holds no trials; expected the folder of a sweep, <storage>/<name>")
    summary = summarise(storage, sweep)
    folder = write_tables(summary)
    print_tables(summary, Console(width=None if sys.stdout.isatty() else 140))
    print(f"\ntrials.csv, cells.csv and summary.json are in {folder}")
    return 0
