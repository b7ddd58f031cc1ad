"""icu-ray data: get and check the data of experiments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icu_ray.commands.command import add_command, split_config


def add(commands: Any) -> None:
    """Register the sub-command."""
    data = commands.add_parser("data", help="Get and check the data of experiments.")
    parts = data.add_subparsers(required=True, metavar="COMMAND")
    fetch = add_command(
        parts,
        "fetch",
        "Download the benchmark's public files, checked and continued; without a network: what to put where.",
        "icu-ray data fetch --folder data",
        _data_fetch,
    )
    fetch.add_argument("--folder", type=Path, default=Path("data"), help="where the files go (default: data)")
    check = add_command(
        parts,
        "check",
        "Validate the data of a config and count it; starts nothing.",
        "icu-ray data check tune_configs/extraction_small.yaml",
        _data_check,
    )
    check.add_argument("config", nargs="?")
    check.add_argument("overrides", nargs="*", metavar="key=value")


def _data_fetch(arguments: argparse.Namespace) -> int:
    from icu_ray.data.fetch import fetch_data

    fetch_data(arguments.folder, print)
    return 0


def _data_check(arguments: argparse.Namespace) -> int:
    from icu_ray.config_file import load_config
    from icu_ray.data.sources import check_data
    from icu_ray.planning import find_config

    name, overrides = split_config([arguments.config or "", *arguments.overrides])
    check = check_data(load_config(find_config(name), overrides))
    for sample, counts in check.samples.items():
        print(f"sample {sample}: {counts.targets} targets, {counts.pool} rows in the pool")
    print(f"held out: {check.heldout} rows; fingerprint {check.fingerprint[:16]}")
    return 0
