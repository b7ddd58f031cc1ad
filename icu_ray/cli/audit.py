"""icu-ray audit: whether what a model was to forget can be brought back.

Exit codes: 0 all attacks were run, whatever they brought back; 1 some could not be run, or with --fail-if-back rows
came back or may have; 2 the input was refused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import FORMS, add_asked_models, add_command, add_forms, positive
from icu_ray.console.verbosity import bar, teller

if TYPE_CHECKING:
    from icu_ray.storage.audits import ModelAudit


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "audit",
        "Attacks on any causal LM: can the texts that it was to forget be brought back? What was found before is not "
        "asked again.",
        "icu-ray audit --model unlearned --forget records.jsonl --control heldout.jsonl --attacks prompt,sample",
        _audit,
        progress=True,
    )
    add_asked_models(parser, precision="fp32")
    parser.add_argument(
        "--forget",
        required=True,
        type=Path,
        metavar="FILE",
        help="the texts that were to be forgotten: .jsonl, .json, .csv, .tsv or .parquet",
    )
    parser.add_argument(
        "--control",
        type=Path,
        metavar="FILE",
        help="texts of the same kind that the models have never read: what comes back of these is chance (default: "
        "none)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="texts of the same kind that the models were to keep, for relearn and neighbours (default: none)",
    )
    parser.add_argument(
        "--original", metavar="DIR_OR_ID", help="the model before unlearning, for depth and neighbours (default: none)"
    )
    parser.add_argument(
        "--retrained",
        metavar="DIR_OR_ID",
        help="a model that never read the texts, with which relearn, depth and membership compare (default: none)",
    )
    parser.add_argument(
        "--attacks",
        default="all",
        metavar="A,B",
        help="separated by commas; 'icu-ray list attacks' says what each does (default: all)",
    )
    parser.add_argument(
        "--leak",
        type=float,
        default=0.5,
        metavar="PART",
        help="a text has come back when the model says this part of its secret, ROUGE-L recall over words (default: "
        "0.5)",
    )
    parser.add_argument(
        "--samples",
        type=positive,
        default=100,
        metavar="N",
        help="answers that sample draws of each row (default: 100)",
    )
    parser.add_argument(
        "--nli",
        metavar="DIR_OR_ID",
        help="model of natural language inference, by which sample also finds answers that say the secret in other "
        "words (default: none)",
    )
    parser.add_argument(
        "--relearn-lr", type=float, default=2e-5, metavar="RATE", help="learning rate of relearn (default: 2e-05)"
    )
    parser.add_argument("--length", type=positive, default=200, metavar="TOKENS", help="tokens of a row (default: 200)")
    parser.add_argument(
        "--prompt-tokens",
        type=positive,
        metavar="TOKENS",
        help="how many of them are given, of plain texts; the rest is the secret (default: three quarters)",
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help="column of the texts (default: text)")
    add_forms(parser)
    parser.add_argument(
        "--paraphrases-column",
        metavar="NAME",
        help="column of --forget with each prompt in other words, one text or a list, which prompt asks too (default: "
        "none)",
    )
    parser.add_argument(
        "--fail-if-back",
        action="store_true",
        help="end with exit code 1 where a row came back, or where it is not known that none did; what else is listed "
        "as not measured, such as the end of a long secret, does not count (default: end with 0 whatever came back, "
        "and with 1 only where an attack could not be run)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with every row's worst case")


def _audit(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("looking at the models and the texts ...")
    config = _config(arguments)
    from icu_ray.services.audit import audit_files
    from icu_ray.storage.results import finite

    # Ray's own words go to a file meanwhile.
    with bar(above=False):
        found = audit_files(
            arguments.model,
            arguments.forget,
            config,
            control=arguments.control,
            kin=arguments.keep,
            original=arguments.original,
            retrained=arguments.retrained,
            columns={name: getattr(arguments, name) for name in ("text_column", *FORMS)},
            paraphrases_column=arguments.paraphrases_column,
            length=arguments.length,
            prompt_tokens=arguments.prompt_tokens,
            storage=arguments.storage,
            precision=arguments.precision,
            revision=arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
            tell=teller(),
        )
    if arguments.json:
        told = [{"model": model, "said": audit.said(), "share": audit.share, **asdict(audit)} for model, audit in found]
        print(json.dumps(finite(told)))
    else:
        for model, audit in found:
            _print(model, audit)
    return _code([audit for _, audit in found], arguments.fail_if_back)


def _code(audits: Sequence[ModelAudit], fail_if_back: bool) -> int:
    """A share that is not known is no 0: rows or answers lack, or rows are back as often as too few control rows."""
    return int(any(audit.errors or (fail_if_back and audit.share != 0) for audit in audits))


def _config(arguments: argparse.Namespace) -> Any:
    """The section `audit` that the options say; what it refuses is told by the option's name."""
    from pydantic import ValidationError

    from icu_ray.config.auditing import AuditConfig, attacks_typed
    from icu_ray.errors import UserError

    names = attacks_typed(arguments.attacks, "--attacks")
    try:
        return AuditConfig.model_validate(
            {
                "attacks": names,
                "leak": arguments.leak,
                "sample": {"samples": arguments.samples, "nli": arguments.nli},
                "relearn": {"lr": arguments.relearn_lr},
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        options = {"leak": "--leak", "samples": "--samples", "nli": "--nli", "lr": "--relearn-lr"}
        option = options.get(str(first["loc"][-1]), "audit")
        raise UserError(f"{option}: {first['msg']}, found {first['input']}") from None


def _print(model: str, audit: ModelAudit) -> None:
    """The verdict in a sentence, then of each attack the setting that brought back most."""
    print(f"{model}: {audit.said()}")
    for attack in dict.fromkeys(point.attack for point in audit.curves):
        points = [point for point in audit.curves if point.attack == attack]
        most = max(points, key=lambda point: (point.back / point.total, -point.strength))
        control = f", control {most.control_back} of {most.control_total}" if most.control_total else ""
        at = f"{most.setting}, {most.budget:g} {most.unit}"
        not_counted = "".join(f"; {why}" for why in filter(None, [audit.not_counted(most)]))
        lacking = "".join(f"; answers missing: {rows}" for rows in filter(None, [audit.answers_missing(attack)]))
        print(f"  {attack:<14} {most.back} of {most.total} rows back{control} ({at}){not_counted}{lacking}")
    for name, value in audit.numbers.items():
        print(f"  {name:<28} {'-' if value is None else f'{value:.4g}'}")
    for line in audit.missing:
        print(f"  not measured: {line}")
    for attack, error in audit.errors.items():
        print(f"  {attack} failed: {error}")
