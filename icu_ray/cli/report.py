"""icu-ray report: tables, tests and figures of one or several sweeps."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from icu_ray.cli.command import add_command, split_sweep
from icu_ray.console.terminal import print_words, rich_console
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
    parser.add_argument(
        "--format",
        choices=("page", "open-unlearning"),
        default="page",
        help="page: the report with its tables and figures. open-unlearning: a file <trial>_EVAL.json for each trial, "
        "as that framework writes it, with the measures that it has a name for (default: page)",
    )


def _report(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("reading what the trials have left ...")
    sweeps = [split_sweep(folder) for folder in arguments.sweeps]
    return _page(sweeps) if arguments.format == "page" else _open_unlearning(sweeps)


def _page(sweeps: list[tuple[str, str]]) -> int:
    from icu_ray.report.numbers.summary import summarise, write_tables
    from icu_ray.report.terminal.summary_tables import print_tables
    from icu_ray.report.write import write_report

    written = write_report(sweeps)
    found = written.report.found
    console = rich_console()
    for storage, sweep in sweeps:
        own = [(t.trial_id, t.name) for t in found.trials if t.sweep == sweep and t.state != "broken"]
        summary = summarise(storage, sweep, own)
        write_tables(summary)
        print_tables(summary, console)
    folder = without_secrets(written.folder)
    status = _told_broken(found.broken)
    print(f"\n{folder}/report.html, report.md, table.tex, table.csv and {len(written.files) - 4} more")
    return status


def _open_unlearning(sweeps: list[tuple[str, str]]) -> int:
    from icu_ray.report.exchange import write_open_unlearning

    made = write_open_unlearning(sweeps)
    console = rich_console()
    status = _told_broken(made.found.broken)
    if made.without:
        said = f"No measure that OpenUnlearning has a name for: {', '.join(made.without)}"
        print_words(console, said, "yellow")
    more = "" if len(made.files) == 1 else f" and {len(made.files) - 1} more"
    print(f"{without_secrets(made.folder)}/{made.files[0]}{more}")
    return status


def _told_broken(broken: tuple[str, ...]) -> int:
    """Say which files could not be read; the exit code."""
    for text in broken:
        print(f"icu-ray report: {text}", file=sys.stderr)
    return 1 if broken else 0
