"""icu-ray plan: what a sweep would run."""

from __future__ import annotations

import argparse
from typing import Any

from icu_ray.cli.command import add_command, add_config, split_config
from icu_ray.console.terminal import rich_console


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "plan",
        "Print what a sweep would run: trials, status, resources, estimate. Starts nothing.",
        "icu-ray plan tune_configs/paper.yaml --json",
        _plan,
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON (default: a table)")


def _plan(arguments: argparse.Namespace) -> int:
    from icu_ray.config.shipped import find_config
    from icu_ray.plan.planning import plan_config
    from icu_ray.report.terminal.plan_table import plan_json, print_plan

    name, overrides = split_config([arguments.config or "", *arguments.overrides])
    plan = plan_config(find_config(name), overrides, dry_run=True)
    if arguments.json:
        print(plan_json(plan))
    else:
        print_plan(plan, rich_console())
    return 0
