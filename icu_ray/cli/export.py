"""icu-ray export: a trial's model as a folder to publish."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command
from icu_ray.console.terminal import whole, wrapped
from icu_ray.console.verbosity import teller


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "export",
        "Copy an unlearned model to a folder that can be published: weights, tokenizer, and a model card with method, "
        "verdict, measurements, hashes and limits. It quotes no text.",
        "icu-ray export runs/quickstart --trial icu-small-s0 --to published",
        _export,
    )
    parser.add_argument(
        "folder", metavar="DIR", help="a sweep's folder, <storage>/<name>, or what 'icu-ray unlearn --out' made"
    )
    parser.add_argument(
        "--to", required=True, type=Path, metavar="DIR", help="a folder that is not there yet, or empty"
    )
    parser.add_argument(
        "--trial",
        metavar="NAME_OR_ID",
        help="whose model: a trial's name or id, or the beginning of one (default: the only one that has a model)",
    )


def _export(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("reading what the trials have left ...")
    from icu_ray.report.export import export_model

    trial = export_model(arguments.folder, arguments.to, trial=arguments.trial)
    verdict = trial.verdict
    said = "" if verdict is None else f" ({verdict.headline.rstrip('.')})"
    print(wrapped(f"{whole(arguments.to)}: the model of {trial.name}{said}, with README.md as its card."))
    return 0
