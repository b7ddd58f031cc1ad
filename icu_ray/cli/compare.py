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
    from icu_ray.report.collect_tracked import FoundSweep

_MLFLOW = "mlflow:"


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "compare",
        "What differs between two sweeps: settings, data, versions, trials, and for trials of the same model, method, "
        "weights and sample the numbers, with their difference and its confidence interval.",
        "icu-ray compare runs/quickstart s3://bucket/runs/quickstart-lr",
        _compare,
    )
    parser.add_argument(
        "first",
        metavar="SWEEP",
        help="A: a sweep's folder, <storage>/<name>, a path or URL; or mlflow:EXPERIMENT, the sweep of that experiment "
        "(mlflow:EXPERIMENT/NAME where it holds several)",
    )
    parser.add_argument("second", metavar="SWEEP", help="B: another one; differences are B minus A")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="where MLflow's experiments are (default: MLFLOW_TRACKING_URI, else runs/mlflow.db)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, equal numbers too")


def _compare(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("reading what the trials have left ...")
    from icu_ray.report.collect_tracked import as_tracked
    from icu_ray.report.numbers.sweep_difference import sweep_difference
    from icu_ray.report.terminal.difference_tables import difference_json, print_difference

    sweeps = [_found(each, arguments.tracking_uri) for each in (arguments.first, arguments.second)]
    first, second = (each.collected for each in sweeps)
    if any(each.tracked for each in sweeps):
        first, second = as_tracked(first), as_tracked(second)
    shown = [without_secrets(each) for each in (arguments.first, arguments.second)]
    names = (shown[0], shown[1])
    said = [f"{letter}: {each.said}" for letter, each in zip("AB", sweeps, strict=True) if each.said]
    difference = sweep_difference(first, second)
    broken = list(dict.fromkeys((*first.broken, *second.broken, *difference.broken)))
    if arguments.json:
        print(json.dumps(difference_json(difference, names, broken) | {"notes": said}, ensure_ascii=False))
    else:
        print_difference(difference, names, rich_console(), said)
    for text in broken:
        print(f"icu-ray compare: {text}", file=sys.stderr)
    return 1 if broken else 0


def _found(asked: str, uri: str | None) -> FoundSweep:
    from icu_ray.report.collect import collect
    from icu_ray.report.collect_tracked import FoundSweep, collect_tracked

    if asked.startswith(_MLFLOW):
        from icu_ray.report.tracking.tracker import tracking_uri

        experiment = asked.removeprefix(_MLFLOW)
        if not experiment:
            raise UserError(f"{asked}: expected the name of an experiment, mlflow:EXPERIMENT")
        return collect_tracked(uri or tracking_uri("runs"), experiment)
    try:
        return FoundSweep(collect([split_sweep(asked)], unstarted=True), "", tracked=False)
    except OSError as error:
        raise UserError(without_secrets(f"{asked}: cannot be read: {error}")) from error
