"""icu-ray data: get and check the data of experiments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command, add_config, add_group, split_config
from icu_ray.console.verbosity import LOOKING, bar, teller


def add(commands: Any) -> None:
    """Register the sub-command."""
    parts = add_group(
        commands,
        "data",
        "Get and check the data of experiments.",
        "icu-ray data check tune_configs/extraction_small.yaml",
    )
    fetch = add_command(
        parts,
        "fetch",
        "Download the benchmark's public files, checked and continued; without a network: what to put where.",
        "icu-ray data fetch --folder data",
        _data_fetch,
        progress=True,
    )
    fetch.add_argument(
        "--folder", type=Path, default=Path("data"), metavar="DIR", help="folder for the files (default: data)"
    )
    mirror = add_command(
        parts,
        "mirror",
        "Write the evaluation data into a folder that machines without a network read with --mirror.",
        "icu-ray data mirror --out mirror --tasks hellaswag,piqa",
        _data_mirror,
        progress=True,
    )
    mirror.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the files")
    mirror.add_argument(
        "--tasks",
        default="",
        metavar="A,B",
        help="the tasks whose rows are fetched, separated by commas (default: all of the suites lm_eval and icu)",
    )
    check = add_command(
        parts,
        "check",
        "Validate the data of a config and count it; starts nothing.",
        "icu-ray data check tune_configs/extraction_small.yaml",
        _data_check,
    )
    add_config(check)


def _data_fetch(arguments: argparse.Namespace) -> int:
    from icu_ray.data.fetch import fetch_data

    with bar():
        fetch_data(arguments.folder, teller())
    return 0


def _data_mirror(arguments: argparse.Namespace) -> int:
    from icu_ray.evaluation.suites import mirror_tasks
    from icu_ray.storage.files import check_writable

    check_writable(str(arguments.out))
    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    with bar():
        mirror_tasks(names, arguments.out, teller())
    return 0


def _data_check(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)(LOOKING)
    from icu_ray.config.file import load_config
    from icu_ray.config.shipped import find_config
    from icu_ray.data.sources import check_data

    name, overrides = split_config([arguments.config or "", *arguments.overrides])
    check = check_data(load_config(find_config(name), overrides))
    for sample, counts in check.samples.items():
        print(f"sample {sample}: {counts.targets} targets, {counts.pool} rows in the pool")
    print(f"held out: {check.heldout} rows")
    print(f"the data can be used; hash of its content: {check.fingerprint[:16]}")
    for remark in check.remarks:
        print(remark)
    return 0
