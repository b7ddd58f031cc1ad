"""icu-ray compare: two sweeps side by side by what differs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import add_command, split_sweep
from icu_ray.console.terminal import rich_console
from icu_ray.console.verbosity import teller
from icu_ray.errors import UserError, without_secrets

if TYPE_CHECKING:
    from icu_ray.report.collect import Collected


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "compare",
        "Two sweeps by what differs: settings, data, versions, trials, and for trials of the same model, method, "
        "weights and sample the numbers, with their difference and its confidence interval.",
        "icu-ray compare runs/quickstart s3://bucket/runs/quickstart-lr",
        _compare,
    )
    parser.add_argument("first", metavar="SWEEP_DIR", help="a sweep's folder, <storage>/<name>, a path or URL: A")
    parser.add_argument("second", metavar="SWEEP_DIR", help="another sweep's folder: B; differences are B minus A")
    parser.add_argument("--json", action="store_true", help="print one JSON object, equal numbers too")


def _compare(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("reading what the trials have left ...")
    from icu_ray.report.numbers.sweep_difference import sweep_difference
    from icu_ray.report.terminal.difference_tables import difference_json, print_difference

    folders = (arguments.first, arguments.second)
    first, second = (_collected(folder) for folder in folders)
    names = (without_secrets(arguments.first), without_secrets(arguments.second))
    difference = sweep_difference(first, second)
    broken = list(dict.fromkeys((*first.broken, *second.broken)))
    if arguments.json:
        print(json.dumps(difference_json(difference, names, broken), ensure_ascii=False))
    else:
        print_difference(difference, names, rich_console())
    for text in broken:
        print(f"icu-ray compare: {text}", file=sys.stderr)
    return 1 if broken else 0


def _collected(folder: str) -> Collected:
    from icu_ray.report.collect import collect

    if folder.startswith("mlflow:"):
        raise UserError(
            f"{folder}: MLflow has neither a sweep's whole config nor the fingerprints of its data; expected the "
            "sweep's folder, <storage>/<name>"
        )
    try:
        return collect([split_sweep(folder)], unstarted=True)
    except OSError as error:
        raise UserError(without_secrets(f"{folder}: cannot be read: {error}")) from error
