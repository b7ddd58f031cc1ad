"""icu-ray doctor: whether a sweep will run here, and what to fix."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import add_command
from icu_ray.console.terminal import UNBOUNDED, rich_console, wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from icu_ray.services.doctor import Finding

_STYLE = {"ok": "green", "note": "yellow", "bad": "red"}
_MARGIN = 20


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "doctor",
        "Check this machine, and with RAY_ADDRESS a cluster: versions, GPU, disk, hub, MLflow, Ray.",
        "icu-ray doctor --storage s3://bucket/runs",
        _doctor,
    )
    parser.add_argument(
        "--storage", default="./runs", metavar="DIR", help="folder or URL for results (default: ./runs)"
    )
    parser.add_argument(
        "--tracking", metavar="URI", help="address of MLflow (default: MLFLOW_TRACKING_URI, else a local file)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(arguments: argparse.Namespace) -> int:
    from icu_ray.services.doctor import examine

    console = rich_console()
    findings = []
    with contextlib.nullcontext() if arguments.json else console.status("looking ..."):
        for finding in examine(arguments.storage, arguments.tracking):
            findings.append(finding)
            if not arguments.json:
                print_finding(finding, console)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def print_finding(finding: Finding, console: Console) -> None:
    """State, what it is about, what was found; below it what to do. A path or command in it can be copied."""
    from rich.text import Text

    width = console.width if console.is_terminal else UNBOUNDED
    line = Text(f"{finding.state:<5}", style=_STYLE[finding.state])
    line.append(f"{finding.what:<{_MARGIN - 6}} ", style="bold")
    line.append(wrapped(finding.found, _MARGIN, width))
    if finding.remedy:
        line.append(f"\n{'':<{_MARGIN}}{wrapped(finding.remedy, _MARGIN, width)}", style="dim")
    console.print(line, soft_wrap=True)
