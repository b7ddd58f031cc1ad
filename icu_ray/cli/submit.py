"""icu-ray submit: a sweep as a job on a cluster."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import add_command, add_config, split_config
from icu_ray.console.progress import duration
from icu_ray.console.terminal import width
from icu_ray.console.verbosity import LOOKING, teller
from icu_ray.errors import without_secrets

if TYPE_CHECKING:
    from icu_ray.sweep.job_list import ListedJob


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "submit",
        "Run a sweep as a job on a Ray cluster, and follow it. Submit the same config again to continue it.",
        "icu-ray submit --address http://127.0.0.1:8265 tune_configs/table1.yaml storage=s3://bucket/runs",
        _submit,
    )
    add_config(parser)
    parser.add_argument(
        "--address",
        metavar="URL",
        help="address of the job server (default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)",
    )
    parser.add_argument(
        "--working-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder that is copied to the cluster (default: this one)",
    )
    parser.add_argument(
        "--id", dest="submission_id", metavar="NAME", help="name of the job (default: the sweep's name and the time)"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="pass a variable of this shell on to the job; may be repeated (default: none); no secrets: everyone on "
        "the cluster sees it",
    )
    parser.add_argument(
        "--wait", action="store_true", help="if another process runs this sweep, wait for its end (default: refuse)"
    )
    parser.add_argument(
        "--no-follow",
        action="store_true",
        help="return when the job is submitted (default: show its log until it ends)",
    )
    parser.add_argument(
        "--attach",
        metavar="ID",
        help="show the log of a job that was submitted before, until it ends (default: submit one)",
    )
    parser.add_argument("--stop", metavar="ID", help="stop a job; what it finished is kept (default: submit one)")
    parser.add_argument("--list", action="store_true", help="list the cluster's submitted jobs, the newest last")
    parser.add_argument("--json", action="store_true", help="with --list: print JSON")


def _submit(arguments: argparse.Namespace) -> int:
    asks = arguments.list or arguments.stop or arguments.attach
    teller(terminal_only=True)("asking the cluster ..." if asks else LOOKING)
    from icu_ray.sweep.submit import Job, follow, job_address, state, stop, submit

    address = job_address(arguments.address)
    if arguments.list:
        from icu_ray.sweep.job_list import jobs

        found = jobs(address)
        if arguments.json:
            print(json.dumps([_as_json(job) for job in found]))
        else:
            print("\n".join(job_lines(found, width())) or f"no jobs at {without_secrets(address)}")
        return 0
    if arguments.stop:
        running = stop(Job(address, arguments.stop))
        said = "asked to stop; submit its config again to continue" if running else "was not running"
        print(f"{arguments.stop}: {said}")
        return 0
    if arguments.attach:
        job = Job(address, arguments.attach)
        state(job)
    else:
        config, overrides = split_config([arguments.config or "", *arguments.overrides])
        job = submit(
            address,
            config,
            overrides,
            say=lambda line: print(line, file=sys.stderr),
            working_dir=arguments.working_dir,
            submission_id=arguments.submission_id,
            pass_on=arguments.env,
            wait=arguments.wait,
        )
        print(f"submitted {job.submission_id}", flush=True)
        if arguments.no_follow:
            return 0
    try:
        return follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        name = job.submission_id
        print(f"\n{name} continues; --attach {name} follows it, --stop {name} ends it", file=sys.stderr)
        return 130


def job_lines(found: Sequence[ListedJob], columns: int) -> list[str]:
    """A table, and under each row what is known besides; [] for no jobs.

    Where a row is longer than `columns`, all but status and job stands below, too.
    """
    if not found:
        return []
    rows = [("status", "job", "sweep", "started", "time")]
    rows += [(job.status, job.id, job.sweep or "-", _moment(job.started), _took(job)) for job in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    narrow = sum(widths) + 2 * (len(widths) - 1) > columns
    lines = []
    for row, job in zip(rows, (None, *found), strict=True):
        shown = row[:2] if narrow else row
        lines.append("  ".join(f"{cell:<{wide}}" for cell, wide in zip(shown, widths, strict=False)).rstrip())
        if job is not None:
            began = "not started" if job.started is None else f"started {row[3]}, {row[4]}"
            rest = ", ".join(([f"sweep {job.sweep}"] if job.sweep else []) + [began]) if narrow else ""
            below = (rest, job.progress, "" if job.sweep else job.command)
            lines += [f"{'':{widths[0]}}  {text}" for text in below if text]
    return lines


def _as_json(job: ListedJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": job.status,
        "sweep": job.sweep or None,
        "command": job.command,
        "started": _iso(job.started),
        "ended": _iso(job.ended),
        "done": job.done,
        "trials": job.trials,
        "said": job.said or None,
    }


def _moment(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _took(job: ListedJob) -> str:
    return "-" if job.started is None else duration(max(0.0, (job.ended or time.time()) - job.started))


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
