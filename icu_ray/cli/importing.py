"""icu-ray import: another framework's evaluation as a row of a sweep's report."""

from __future__ import annotations

import argparse
from typing import Any

from icu_ray.cli.command import add_command, split_sweep
from icu_ray.console.terminal import whole, wrapped
from icu_ray.errors import without_secrets


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "import",
        "Read evaluations that another framework made into a sweep's folder. Its report then has them in the table "
        "'Measured elsewhere', next to ours where a metric has the same name, and in no ranking or test.",
        "icu-ray import saves/eval/tofu_npo/TOFU_EVAL.json --out runs/tofu --model llama-1b",
        _import,
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="JSON as OpenUnlearning writes it, TOFU_EVAL.json, MUSE_EVAL.json, TOFU_SUMMARY.json: a path or URL",
    )
    parser.add_argument(
        "--out", required=True, metavar="SWEEP_DIR", help="the sweep's folder, <storage>/<name>, which must be there"
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="what the row of the only FILE is called (default: its name without _EVAL.json, or its folder's name "
        "where that is a benchmark's)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME_IN_SWEEP",
        help="the sweep's model with which the rows are shown (default: the only one that the sweep has, or none)",
    )


def _import(arguments: argparse.Namespace) -> int:
    from icu_ray.report.exchange import import_files

    storage, sweep = split_sweep(arguments.out)
    done = import_files(arguments.files, storage, sweep, label=arguments.label, model=arguments.model or "")
    for each in done:
        found = each.imported
        rows = max((len(metric.rows) for metric in found.metrics.values()), default=0)
        count = f"{len(found.shown)} metrics, {rows or 'no'} rows"
        said = f"{found.label}: {count}, from {whole(found.source)}"
        print(wrapped(said + (", in place of what had this label" if each.replaced else "")))
    print(wrapped(f"'icu-ray report {without_secrets(arguments.out)}' shows them."))
    return 0
