"""icu-ray sync: bring MLflow up to date from storage."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from icu_ray.cli.command import add_command, split_sweep
from icu_ray.console.verbosity import teller
from icu_ray.errors import UserError, without_secrets


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "sync",
        "Send to MLflow what a sweep's storage holds and the server does not.",
        "MLFLOW_TRACKING_URI=http://mlflow:5000 icu-ray sync runs/quickstart",
        _sync,
    )
    parser.add_argument("sweep", metavar="SWEEP_DIR", help="the sweep's folder: <storage>/<name>")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _sync(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("reading what the trials have left, and what MLflow has of it ...")
    from icu_ray.report.tracking.sync import sync_sweep
    from icu_ray.report.tracking.tracker import tracking_uri
    from icu_ray.storage.trial_files import no_trials_said, read_beat, read_sweep, trial_ids

    storage, sweep = split_sweep(arguments.sweep)
    if not trial_ids(storage, sweep):
        raise UserError(no_trials_said(storage, sweep))
    known, beat = read_sweep(storage, sweep), read_beat(storage, sweep)
    configured = None if known is None else known.tracking("uri")
    uri = tracking_uri(storage, configured)
    over = beat is None or beat.state_at(time.time()) != "running"
    try:
        sent = sync_sweep(storage, sweep, uri, over=over)
    except UserError:  # a file of the sweep that is damaged
        raise
    except Exception as error:  # MLflow, its database and its HTTP library each have their own
        first = without_secrets(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        raise UserError(
            f"MLflow at {without_secrets(uri)} did not take the runs: {first}; nothing is lost, the same command sends "
            "what is missing (MLFLOW_TRACKING_URI names the server)"
        ) from error
    if arguments.json:
        print(json.dumps({"sent": sent}))
        return 0
    print(f"{without_secrets(uri)}: {sent} metric values of {sweep} sent; everything in storage is there now")
    return 0
