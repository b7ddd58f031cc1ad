"""icu-ray probe: how much a model remembers of a forget sample."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from icu_ray.cli.command import FORMS, add_command, add_forms, positive


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "probe",
        "Forget loss, memorisation accuracy and extraction likelihood of any causal LM on any forget sample.",
        "icu-ray probe --model EleutherAI/gpt-neo-125m --forget records.jsonl --json",
        _probe,
        progress=True,
    )
    parser.add_argument("--model", required=True, metavar="DIR_OR_ID", help="folder, hub id or GGUF file of the model")
    parser.add_argument(
        "--forget",
        required=True,
        type=Path,
        metavar="FILE",
        help="the texts: .jsonl, .json, .csv, .tsv or .parquet, a data set "
        "hub:OWNER/NAME@REVISION#CONFIGURATION:SPLIT, or .npy of token ids",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="tokenizer that made the ids of a .npy file, a folder or hub id (default: the model's)",
    )
    parser.add_argument(
        "--el-start",
        type=positive,
        metavar="TOKENS",
        help="tokens of EL's shortest prompt, of plain texts (default: 150)",
    )
    parser.add_argument("--ngram", type=positive, default=10, metavar="N", help="n of EL, in tokens (default: 10)")
    parser.add_argument(
        "--length",
        type=positive,
        default=200,
        metavar="TOKENS",
        help="tokens of a row: a longer text is cut, a shorter one is put at its end, so that --el-start counts from "
        "the row's beginning (default: 200, the paper's; 'icu-ray unlearn' takes the longest text's)",
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help="column of the texts (default: text)")
    add_forms(parser)
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    parser.add_argument(
        "--revision",
        metavar="NAME",
        help="revision of the model on the hub: a branch, tag or commit (default: its main branch)",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that the model's folder brings (default: refuse)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every text's values")


def _probe(arguments: argparse.Namespace) -> int:
    from icu_ray.console.verbosity import bar, teller
    from icu_ray.services.probe import probe_files, probe_json, probe_remarks
    from icu_ray.storage.results import finite

    with bar():
        result = probe_files(
            arguments.model,
            arguments.forget,
            tokenizer=arguments.tokenizer,
            el_start=arguments.el_start,
            ngram=arguments.ngram,
            length=arguments.length,
            columns={name: getattr(arguments, name) for name in ("text_column", *FORMS)},
            device=arguments.device,
            trust_remote_code=arguments.trust_remote_code,
            revision=arguments.revision,
            say=teller(terminal_only=True),
            tell=teller(),
        )
    if arguments.json:
        print(json.dumps(finite(probe_json(result, arguments.ngram))))
    else:
        print(f"texts        {len(result.ids)}")
        print(f"MA           {_percent(result.ma_mean)}")
        print(f"EL{arguments.ngram:<10} {_percent(result.el_mean)}")
        print(f"forget loss  {'-' if result.forget_loss_mean is None else f'{result.forget_loss_mean:.4f}'}")
    for remark in probe_remarks(result, arguments.ngram, arguments.length):
        print(f"icu-ray probe: {remark}", file=sys.stderr)
    return 1 if result.broken.any() else 0


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
