"""icu-ray data: get and check the data of experiments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command, add_config, add_group, positive, split_config
from icu_ray.console.verbosity import LOOKING, bar, teller
from icu_ray.errors import UserError


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
        "Download a benchmark's public files, checked; what is there stays. Without a network: what to put where.",
        "icu-ray data fetch tofu --out data/tofu",
        _data_fetch,
        progress=True,
    )
    fetch.add_argument(
        "benchmark",
        nargs="?",
        choices=("extraction", "tofu", "muse", "wmdp", "rwku"),
        default="extraction",
        help="which: the LM extraction benchmark, or one that 'icu-ray list benchmarks' names (default: extraction)",
    )
    fetch.add_argument(
        "--folder",
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the files (default: data, of a benchmark of the field data/NAME)",
    )
    fetch.add_argument(
        "--revision",
        metavar="REV",
        help="commit, tag or branch of the hub's data set (default: the one that published work names, or its newest)",
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
    pieces = add_command(
        parts,
        "pieces",
        "Cut long texts into pieces of a model's tokens, as MUSE and OpenUnlearning train on them.",
        "icu-ray data pieces forget.jsonl --tokenizer meta-llama/Llama-2-7b-hf --out forget-2048.jsonl",
        _data_pieces,
    )
    pieces.add_argument("file", type=Path, help="file of texts, as data.forget takes it")
    pieces.add_argument("--tokenizer", required=True, metavar="DIR_OR_ID", help="the model whose tokens are counted")
    pieces.add_argument("--tokens", type=positive, default=2048, metavar="N", help="tokens of a piece (default: 2048)")
    pieces.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write them, as .jsonl")
    pieces.add_argument("--text-column", default="text", metavar="NAME", help="column of the texts (default: text)")
    pieces.add_argument(
        "--min-characters", type=int, default=0, metavar="N", help="leave out shorter texts (default: 0; RMU: 50)"
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
    name, revision = arguments.benchmark, arguments.revision
    with bar():
        if name == "extraction":
            from icu_ray.data.fetch import fetch_data

            if revision is not None:
                raise UserError("data fetch: --revision is for data sets of the hub; extraction's files are pinned")
            fetch_data(arguments.folder or Path("data"), teller())
        else:
            from icu_ray.evaluation.benchmarks import BENCHMARKS
            from icu_ray.evaluation.benchmarks.fetch import fetch_benchmark

            fetch_benchmark(BENCHMARKS[name], arguments.folder or Path("data") / name, teller(), revision=revision)
    return 0


def _data_mirror(arguments: argparse.Namespace) -> int:
    from icu_ray.evaluation.suites import mirror_tasks
    from icu_ray.storage.files import check_writable

    check_writable(str(arguments.out), key="--out")
    names = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    with bar():
        mirror_tasks(names, arguments.out, teller())
    return 0


def _data_pieces(arguments: argparse.Namespace) -> int:
    from icu_ray.data.text_pieces import write_pieces
    from icu_ray.models.loading import load_tokenizer

    if arguments.out.suffix != ".jsonl":
        raise UserError(f"data pieces: --out {arguments.out}: expected a file ending in .jsonl")
    texts, pieces = write_pieces(
        arguments.file,
        load_tokenizer(arguments.tokenizer),
        arguments.tokens,
        arguments.out,
        column=arguments.text_column,
        shortest=arguments.min_characters,
    )
    print(f"{arguments.out}: {pieces:,} pieces of {arguments.tokens:,} tokens, of {texts:,} texts")
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
