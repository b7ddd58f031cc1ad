"""icu-ray requests: deletion requests over time, kept in a ledger beside a model."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command, add_group, add_overrides
from icu_ray.cli.request_parts import (
    add_part,
    bundle_part,
    init_part,
    list_part,
    purge_part,
    run_part,
    show_part,
    undo_part,
    verify_part,
)
from icu_ray.cli.unlearn import add_files, add_settings, output_to_error
from icu_ray.requests.wording import named_as_typed

_PURGE = "30d"


def add(commands: Any) -> None:
    """Register the sub-command."""
    parts = add_group(
        commands,
        "requests",
        "Deletion requests over time: a ledger of who asked for what, a model version for each run, evidence to file.",
        "icu-ray requests run ledger",
    )
    _add_init(parts)
    made = _part(
        parts,
        "add",
        "Enter a request: a file of texts to forget. It waits until the next run.",
        add_part,
        "forget.jsonl",
    )
    made.add_argument(
        "file", type=Path, metavar="FILE", help="the texts, with the columns that the ledger was made for"
    )
    made.add_argument("--id", metavar="NAME", help="the request's name (default: r and the next free number)")
    made.add_argument("--subject", metavar="ID", help="who asks, or whose data it is (default: not said)")
    made.add_argument("--due", metavar="DATE", help="day by which it has to be done, as 2026-12-24 (default: none)")
    _part(parts, "list", "All requests: state, since when, due when, model version.", list_part)
    _add_run(parts)
    check = _part(
        parts,
        "verify",
        "Check the chain of entries, the records' signatures and the models of all versions; exit code 1 where "
        "something is not as it was written, or where a purge could not reach all. With --text: which requests a text "
        "was in.",
        verify_part,
    )
    check.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="texts to look for by keyed hashes, also after a purge: a file like those of requests, or one .txt; exit "
        "code 1 where one of them is in no request (default: none)",
    )
    gone = _part(
        parts,
        "undo",
        "Take a request back: the model goes back to the version before it, and later requests wait again.",
        undo_part,
        "r2",
    )
    gone.add_argument("request", metavar="ID", help="the request's name")
    clean = _part(
        parts,
        "purge",
        "Delete the texts of requests that are done, all that runs have left of them, and versions of the model that "
        "still know them; such a request can be undone only where the version before it is the original. Exit code 1 "
        "while there are places that could not be reached; the next purge tries them again.",
        purge_part,
    )
    clean.add_argument(
        "--after",
        type=_days,
        metavar="TIME",
        help="time since a request was done, as 30d or 12h (default: what the ledger was made with)",
    )
    clean.add_argument(
        "--deleted-by-hand",
        action="store_true",
        help="you have deleted what earlier purges could not reach: what cannot be reached now either counts as "
        "deleted, and the ledger keeps that you said so (default: it is named, and tried again)",
    )
    one = _part(
        parts, "show", "One request: its state, attempts, and what each version knows of its texts.", show_part, "r1"
    )
    one.add_argument("request", metavar="ID", help="the request's name")
    pack = _part(parts, "bundle", "One zip archive with the evidence of a request.", bundle_part, "r1 r1.zip")
    pack.add_argument("request", metavar="ID", help="the request's name")
    pack.add_argument("out", type=Path, metavar="OUT.zip", help="the archive, which must not be there yet")


def _part(parts: Any, name: str, summary: str, run: Any, example: str = "", progress: bool = False) -> Any:
    words = f"icu-ray requests {name} ledger {example}".rstrip()
    parser = add_command(parts, name, summary, words, lambda arguments: _typed(run, arguments), progress=progress)
    parser.add_argument("ledger", type=Path, metavar="LEDGER", help="the ledger's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_init(parts: Any) -> None:
    parser = _part(
        parts,
        "init",
        "Make a ledger for a model, with the settings that all its runs share.",
        init_part,
        "--model my-model --retain others.jsonl",
        progress=True,
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_ID", help="folder, hub id or GGUF file of the model")
    add_files(parser)
    parser.add_argument(
        "--after",
        type=_days,
        default=_PURGE,
        metavar="TIME",
        help=f"time after which 'purge' deletes the texts of a request that is done, as 30d or 12h (default: {_PURGE})",
    )
    parser.add_argument(
        "--mlflow", metavar="URI", help="MLflow in whose model registry versions are entered (default: none)"
    )
    parser.add_argument(
        "--name", metavar="MODEL_NAME", help="the model's name in that registry (default: the name of LEDGER)"
    )
    add_settings(parser)


def _add_run(parts: Any) -> None:
    parser = _part(
        parts,
        "run",
        "Carry out the waiting requests in one trial, and check the texts of earlier requests again. Continues a run "
        "that was killed. Exit code 1: the result is not acceptable, or the audit or evaluation was not carried out; "
        "the output says why.",
        run_part,
        progress=True,
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="a trial for each request, those due first (default: one for all)"
    )
    parser.add_argument(
        "--again", action="store_true", help="also run what was not acceptable (default: only what waits)"
    )
    parser.add_argument(
        "--from-original",
        action="store_true",
        help="one trial from the original model over all requests whose texts are held (default: from the newest "
        "version over what waits)",
    )
    parser.add_argument(
        "--from-version",
        type=int,
        metavar="N",
        help="the same from version N, over all requests that are not done in it (default: the newest)",
    )
    parser.add_argument(
        "--abandon",
        action="store_true",
        help="give up a run that was killed, and start its requests anew at once; 'undo' is what takes a request back "
        "(default: continue it)",
    )
    add_overrides(parser)


def _days(text: str) -> float:
    units = {"d": 1.0, "h": 1 / 24, "m": 1 / 1440}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a time such as 30d or 12h, found '{text}'")
    return value


def _typed(run: Any, arguments: argparse.Namespace) -> int:
    quietly = output_to_error() if arguments.json else contextlib.nullcontext()
    # Texts to forget are given to `add`, which calls them FILE; there is no --forget here.
    with (
        named_as_typed(lambda name: "FILE" if name == "forget" else f"--{name}", getattr(arguments, "overrides", [])),
        quietly,
    ):
        told, said, code = run(arguments)
    print(json.dumps(told, ensure_ascii=False) if arguments.json else said)
    return int(code)
