"""icu-ray init: a commented config to start from."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command
from icu_ray.data.hub_data import is_hub_data
from icu_ray.errors import UserError

_HELDOUT = 16


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
        "--model",
        metavar="DIR_OR_ID",
        help="folder, hub id or GGUF file of the model (default: a small stand-in)",
    )
    parser.add_argument(
        "--forget",
        metavar="FILE",
        help="texts to forget: .jsonl, .json, .csv, .tsv or .parquet, or hub:OWNER/NAME; its columns are read "
        "(default: made-up records)",
    )
    parser.add_argument("--retain", metavar="FILE", help="texts that it may keep, in the same form (default: none)")


def _init(arguments: argparse.Namespace) -> int:
    from icu_ray.cluster.nodes import machine
    from icu_ray.config.starter import starter_config

    path = Path(arguments.file)
    if arguments.retain is not None and arguments.forget is None:
        raise UserError("--retain: goes with --forget, a file of the texts to forget")
    gpus = min(1, int(machine().gpus))
    rows = _rows(arguments.forget, arguments.model)
    heldout = _heldout_rows(arguments.retain, rows)
    text = starter_config(path, arguments.model, arguments.forget, arguments.retain, gpus, rows, heldout)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path}: is there already; give another name, or remove it first") from None
    except FileNotFoundError:
        raise UserError(f"{path}: its folder {path.parent} is not there") from None
    print(f"{path} is written.\n  What it would run:  icu-ray plan {path}\n  Run it:             icu-ray sweep {path}")
    return 0


_COLUMNS = ("prompt_column", "completion_column", "messages_column", "template")


def _rows(forget: str | None, model: str | None) -> dict[str, Any]:
    """How the rows of a file that is there are written, as `icu-ray unlearn` finds it; {} for texts."""
    from icu_ray.plan.own_files import as_read

    if forget is None or not _is_there(forget):
        return {}
    data = {"source": "records", "forget": forget}
    try:
        found = as_read(data, {"source": model}, "icu-ray init", print, "--forget")
    except UserError as error:
        found = as_read(data, {}, "icu-ray init", print, "--forget")  # refused again where the file is what is wrong
        print(f"{model}: whether it has a chat template is not known; if so, set data.template to chat ({error})")
    return {key: found[key] for key in _COLUMNS if key in found}


def _heldout_rows(retain: str | None, rows: Mapping[str, Any]) -> int:
    """Of the texts to keep: 16, and no more than half of them."""
    from icu_ray.config.file import load_data
    from icu_ray.data.table_files import read_columns

    if retain is None or not _is_there(retain):
        return _HELDOUT
    form = load_data({"source": "records", "forget": retain, **rows}, "icu-ray init").form
    enough = itertools.islice(read_columns(Path(retain), form.columns, "--retain"), 2 * _HELDOUT)
    return sum(1 for _ in enough) // 2


def _is_there(file: str) -> bool:
    """Whether it can be looked at; a name with {sample} means several files or parts of a data set."""
    return "{sample}" not in file and (is_hub_data(file) or Path(file).expanduser().is_file())
