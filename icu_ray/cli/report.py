"""icu-ray report: tables, tests and figures of one or several sweeps."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icu_ray.cli.command import add_command, split_sweep
from icu_ray.console.terminal import rich_console
from icu_ray.console.verbosity import teller
from icu_ray.errors import without_secrets


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "report",
        "Tables of finished or unfinished sweeps as HTML page, Markdown, LaTeX and CSV, figures as PNG, SVG and PDF.",
        "icu-ray report runs/quickstart",
        _report,
    )
    parser.add_argument(
        "sweeps",
        metavar="SWEEP_DIR",
        nargs="+",
        help="a sweep's folder, <storage>/<name>; several are joined into one report in the first one's folder",
    )


def _report(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("reading what the trials have left ...")
    from icu_ray.report.numbers.summary import summarise, write_tables
    from icu_ray.report.terminal.summary_tables import print_tables
    from icu_ray.report.write import write_report

    sweeps = [split_sweep(folder) for folder in arguments.sweeps]
    written = write_report(sweeps)
    found = written.report.found
    console = rich_console()
    for storage, sweep in sweeps:
        own = [(t.trial_id, t.name) for t in found.trials if t.sweep == sweep and t.state != "broken"]
        summary = summarise(storage, sweep, own)
        write_tables(summary)
        print_tables(summary, console)
    for text in found.broken:
        print(f"icu-ray report: {text}", file=sys.stderr)
    folder = without_secrets(written.folder)
    print(f"\n{folder}/report.html, report.md, table.tex, table.csv and {len(written.files) - 4} more")
    return 1 if found.broken else 0
