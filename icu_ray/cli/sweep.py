"""icu-ray sweep: the main job, as `python -m icu_ray.sweep`."""

from __future__ import annotations

import argparse
from typing import Any

from icu_ray.cli.command import add_command, add_config
from icu_ray.console.verbosity import LOOKING, teller


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "sweep",
        "Run a sweep (a grid of trials), or continue it where it stopped.",
        "icu-ray sweep tune_configs/extraction_small.yaml optim.lr=1e-4",
        _sweep,
        progress=True,
    )
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing (default: run it)")
    parser.add_argument("--json", action="store_true", help="with --dry-run: print JSON")
    parser.add_argument(
        "--wait", action="store_true", help="if another process runs this sweep, wait for its end (default: refuse)"
    )


def _sweep(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)(LOOKING)
    from icu_ray.sweep.__main__ import main as sweep

    flags = {"--dry-run": arguments.dry_run, "--json": arguments.json, "--wait": arguments.wait}
    given = [arguments.config] if arguments.config is not None else []
    return sweep([*given, *arguments.overrides, *(flag for flag, on in flags.items() if on)], name="icu-ray")
