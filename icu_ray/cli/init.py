"""icu-ray init: a commented config to start from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command
from icu_ray.errors import UserError


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "init",
        "Write a commented config to start from; without options it is one that any machine can run.",
        "icu-ray init mine.yaml --model EleutherAI/gpt-neo-125m --forget my.jsonl --retain others.jsonl",
        _init,
    )
    parser.add_argument(
        "file",
        nargs="?",
        default="mine.yaml",
        metavar="FILE",
        help="file to write; it must not be there yet (default: mine.yaml)",
    )
    parser.add_argument(
        "--model", metavar="DIR_OR_ID", help="folder or hub id of the language model (default: a small stand-in)"
    )
    parser.add_argument(
        "--forget",
        metavar="FILE",
        help="texts to forget: .jsonl, .json, .csv, .tsv or .parquet (default: made-up records)",
    )
    parser.add_argument("--retain", metavar="FILE", help="texts that it may keep, in the same form (default: none)")


def _init(arguments: argparse.Namespace) -> int:
    from icu_ray.cluster.nodes import machine
    from icu_ray.config.starter import starter_config

    path = Path(arguments.file)
    if arguments.retain is not None and arguments.forget is None:
        raise UserError("--retain: goes with --forget, a file of the texts to forget")
    gpus = min(1, int(machine().gpus))
    text = starter_config(path, arguments.model, arguments.forget, arguments.retain, gpus)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: is there already; give another name, or remove it first") from None
    except FileNotFoundError:
        raise UserError(f"{path}: its folder {path.parent} is not there") from None
    print(f"{path} is written.\n  What it would run:  icu-ray plan {path}\n  Run it:             icu-ray sweep {path}")
    return 0
