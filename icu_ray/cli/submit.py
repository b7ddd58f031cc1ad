"""icu-ray submit: a sweep as a job on a cluster."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command, split_config


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "submit",
        "Run a sweep as a job on a Ray cluster, and follow it. Submit the same config again to continue it.",
        "icu-ray submit --address http://127.0.0.1:8265 tune_configs/table1.yaml storage=s3://bucket/runs",
        _submit,
    )
    parser.add_argument("config", nargs="?", help="YAML file or name of a shipped config (default: quickstart)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys to set, e.g. optim.lr=1e-5")
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
        "--id", dest="submission_id", metavar="ID", help="name of the job (default: the sweep's name and the time)"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="pass on a variable of this shell (may be repeated); no secrets: everyone on the cluster sees it",
    )
    parser.add_argument("--wait", action="store_true", help="if another process runs this sweep, wait for its end")
    parser.add_argument("--no-follow", action="store_true", help="return when the job is submitted")
    parser.add_argument("--attach", metavar="ID", help="follow a job that was submitted before")
    parser.add_argument("--stop", metavar="ID", help="stop a job; what it finished is kept")
    parser.add_argument("--list", action="store_true", help="the cluster's sweeps, the newest last")
    parser.add_argument("--json", action="store_true", help="with --list: print JSON")


def _submit(arguments: argparse.Namespace) -> int:
    from icu_ray.sweep.submit import Job, follow, job_address, jobs, state, stop, submit

    address = job_address(arguments.address)
    if arguments.list:
        found = jobs(address)
        if arguments.json:
            print(json.dumps([{"id": name, "status": status} for name, status in found.items()]))
        else:
            for name, status in found.items():
                print(f"{status:<10} {name}")
        return 0
    if arguments.stop:
        running = stop(Job(address, arguments.stop))
        said = "asked to stop; submit its config again to go on" if running else "was not running"
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
        print(f"\n{name} goes on; --attach {name} follows it, --stop {name} ends it", file=sys.stderr)
        return 130
