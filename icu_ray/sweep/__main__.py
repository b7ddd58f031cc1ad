"""The main job as a command: a config becomes unlearned models, their numbers, and runs to compare.

    python -m icu_ray.sweep [CONFIG.yaml] [key=value ...] [--dry-run [--json]] [--wait]

With no config it runs the embedded quickstart. The same command again goes on where it stopped. Exit codes: 0 all
trials ended, 1 some failed or Ray is gone, 2 the input was refused before anything started, 130 interrupted, resumable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from icu_ray.config.shipped import find_config
from icu_ray.console.exit_codes import exit_code
from icu_ray.console.terminal import rich_console
from icu_ray.console.verbosity import LOOKING, add_options, chosen, teller
from icu_ray.errors import UserError
from icu_ray.plan.planning import plan_config
from icu_ray.report.terminal.plan_table import plan_json, print_plan
from icu_ray.sweep.run import run_sweep

OWN_NAME = "icu_ray.sweep"


def main(argv: Sequence[str] | None = None, *, name: str = OWN_NAME) -> int:
    """Run the job; the process's exit code. name: of the command, before what it says of errors."""
    parser = argparse.ArgumentParser(
        prog="python -m icu_ray.sweep",
        description="Run a grid of unlearning trials, or continue it where it stopped.",
        epilog="example:\n  python -m icu_ray.sweep tune_configs/extraction_small.yaml optim.lr=1e-4 --dry-run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", help="YAML file, or name of a shipped config (default: quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys to set, e.g. optim.lr=1e-5")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: print JSON")
    parser.add_argument("--wait", action="store_true", help="if another process runs this sweep, wait for its end")
    add_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    return exit_code(name, lambda: _run(arguments, announce=name == OWN_NAME))


def _run(arguments: argparse.Namespace, announce: bool) -> int:
    given = [text for text in (arguments.config, *arguments.overrides) if text]
    config = given.pop(0) if given and "=" not in given[0] else None
    if arguments.json and not arguments.dry_run:
        raise UserError("--json: needs --dry-run; icu-ray status --json reports on a sweep that runs or has run")
    with chosen(arguments.verbosity):
        if announce:  # `icu-ray sweep` has done so before it imported this
            teller(terminal_only=True)(LOOKING)
        plan = plan_config(find_config(config), given, dry_run=arguments.dry_run)
        if not arguments.dry_run:
            return run_sweep(plan, wait=arguments.wait)
    if arguments.json:
        print(plan_json(plan))
    else:
        print_plan(plan, rich_console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
