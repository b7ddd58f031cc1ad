"""icu-ray doctor: whether a sweep will run here, and what to mend."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from icu_ray.commands.command import add_command

_STYLE = {"ok": "green", "note": "yellow", "bad": "red"}


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "doctor",
        "Check this machine, and with RAY_ADDRESS a cluster: versions, GPU, disk, hub, MLflow, Ray.",
        "icu-ray doctor --storage s3://bucket/runs",
        _doctor,
    )
    parser.add_argument("--storage", default="./runs", help="where results are to go (default ./runs)")
    parser.add_argument("--tracking", metavar="URI", help="of MLflow (default: MLFLOW_TRACKING_URI, else a local file)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    from icu_ray.doctor import examine

    console = Console(highlight=False)
    findings = []
    for finding in examine(arguments.storage, arguments.tracking):
        findings.append(finding)
        if not arguments.json:
            line = Text(f"{finding.state:<5}", style=_STYLE[finding.state])
            line.append(f"{finding.what:<14} ", style="bold")
            line.append(finding.found, style="")
            console.print(line, soft_wrap=True)
            if finding.remedy:
                console.print(Text(f"{'':<20}{finding.remedy}", style="dim"), soft_wrap=True)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings]))
    return 1 if any(finding.state == "bad" for finding in findings) else 0
