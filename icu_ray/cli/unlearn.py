"""icu-ray unlearn: one deletion request, without a grid."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from icu_ray.cli.command import FORMS, add_command, add_forms
from icu_ray.console.verbosity import teller
from icu_ray.requests.wording import named_as_typed

SUBJECTS_SHOWN = 10
"""So many subjects are named in the answer; the record has all."""


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "unlearn",
        "Make one model forget the texts of a file: model, report page and a line for every text are left in --out.",
        "icu-ray unlearn --model EleutherAI/gpt-neo-125m --forget my.jsonl --retain others.jsonl --out unlearned",
        _typed,
        progress=True,
    )
    parser.add_argument(
        "--model",
        default="standin",
        metavar="DIR_OR_ID",
        help="folder or hub id of a causal LM; default: a small stand-in that is first trained to know the texts",
    )
    parser.add_argument(
        "--forget",
        metavar="FILE",
        help="the forget sample: .jsonl, .json, .csv or .parquet (a stand-in brings its own)",
    )
    parser.add_argument(
        "--retain",
        metavar="FILE",
        help="the pool: texts it may keep, from which each target's pair is drawn; without them all "
        "that can be done is gradient ascent, which costs a model much more",
    )
    parser.add_argument(
        "--heldout",
        metavar="FILE",
        help="texts that the model has never read: they show what forgetting costs; 16 or more also set the "
        "thresholds (default: a tenth of --retain, which shows the cost alone)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the model, the report and all files")
    parser.add_argument(
        "--also-check",
        nargs="+",
        default=[],
        metavar="FILE",
        help="texts of earlier requests: are they still forgotten? (same columns as --forget)",
    )
    parser.add_argument("--request-id", help="name of the request in its record (default: the trial's id)")
    parser.add_argument("--asked-by", metavar="NAME", help="who asks, for the record")
    parser.add_argument("--text-column", default="text", help="column of the texts (default text)")
    add_forms(parser)
    parser.add_argument("--id-column", help="column of the texts' ids (default: rows are numbered)")
    parser.add_argument("--method", help="icu, kl, llmu, ... (default icu, without --retain kumpr)")
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of learning the pairs (default 0.5)")
    parser.add_argument("--beta", type=float, help="weight of staying near the original (default 1, of a stand-in 4)")
    parser.add_argument("--length", type=int, help="tokens of a row (default: of the longest text; of a stand-in 128)")
    parser.add_argument("--workers", type=int, default=1, help="training workers (default 1)")
    parser.add_argument("--gpus", type=int, help="of each worker (default: 1 where there is one; of a stand-in 0)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--suite", nargs="+", default=[], help="evaluate before and after: lm_eval, icu, quick")
    parser.add_argument("--mirror", metavar="DIR", help="read the suites' rows from this folder, not from the hub")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config keys to set, e.g. optim.lr=1e-5")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and start nothing")
    parser.add_argument("--json", action="store_true", help="print JSON; progress goes to standard error")


def _typed(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("looking at the model and the texts ...")
    with named_as_typed("--{}".format, arguments.overrides):
        return _unlearn(arguments)


def _unlearn(arguments: argparse.Namespace) -> int:
    from icu_ray.errors import without_secrets
    from icu_ray.requests.record import Asked, said_of_earlier
    from icu_ray.requests.unlearn import plan_request, request_json, settings_said, unlearn, unlearn_config

    options = {
        name: getattr(arguments, name)
        for name in ("retain", "heldout", "text_column", "id_column", "method", "alpha", "beta", "length", "workers")
    }
    options |= {name: getattr(arguments, name) for name in FORMS} | {"say": teller()}
    options |= {"gpus": arguments.gpus, "precision": arguments.precision, "suites": arguments.suite}
    options |= {"mirror": arguments.mirror, "overrides": arguments.overrides}
    if arguments.dry_run:
        from icu_ray.console.terminal import rich_console
        from icu_ray.report.terminal.plan_table import plan_json, print_plan

        config = unlearn_config(arguments.model, forget=arguments.forget, out=arguments.out, **options)
        plan = plan_request(config, dry_run=True)
        if arguments.json:
            print(plan_json(plan))
        else:
            print_plan(plan, rich_console())
        return 0
    command = without_secrets(shlex.join(["icu-ray", *arguments.words]))
    asked = Asked(command, arguments.request_id, arguments.asked_by, tuple(arguments.also_check))
    with _output_to_error() if arguments.json else contextlib.nullcontext():
        done = unlearn(arguments.model, forget=arguments.forget, out=arguments.out, asked=asked, **options)
    earlier = said_of_earlier(done.record) if done.record and asked.also_check else []
    if arguments.json:
        print(json.dumps(request_json(done), ensure_ascii=False))
        return done.command_code
    if done.result is None:
        return done.command_code
    verdict = done.verdict
    if verdict is None:
        print("\nForgotten." if done.forgotten else f"\nNOT forgotten: {done.result.reason}")
    else:
        print(f"\n{verdict.headline}")
        for question, sentences in verdict.lines:
            for place, said in enumerate(sentences):
                print(f"  {'' if place else question:<16} {said}")
    for place, each_subject in enumerate(done.by_subject[:SUBJECTS_SHOWN]):
        print(f"  {'' if place else 'by subject':<16} {each_subject.said}")
    if len(done.by_subject) > SUBJECTS_SHOWN:
        rest = done.by_subject[SUBJECTS_SHOWN:]
        print(f"  {'':<16} of {len(rest)} more subjects, {sum(one.all for one in rest)} are wholly forgotten")
    for what, said in settings_said(done.result).items():
        print(f"  {what:<30} {said}")
    if done.model is not None:
        print(f"  {'model':<30} {done.model}")
    if done.kept is not None:
        print(f"  {'kept, of an earlier request':<30} {done.kept}: it is a success, and this one's model is none")
    for what, path in (("report", "report.html"), ("every text", "targets.csv"), ("record", "record.html")):
        if (done.folder / path).exists():
            print(f"  {what:<30} {done.folder / path}")
    for said, _ in earlier:
        print(f"  {'texts of an earlier request':<30} {said}")
    for each in done.next_tries:
        print(f"\nNext: {each.why}\n  {next_command(arguments, each.changes)}")
    return done.command_code


# In this order: what takes several values stands before another option, not before the overrides.
_OPTIONS = (
    *("suite", "model", "forget", "retain", "heldout", "out", "text_column", *FORMS, "id_column", "method", "alpha"),
    "beta",
    *("length", "workers", "gpus", "precision", "mirror", "also_check", "request_id", "asked_by"),
)


def next_command(arguments: argparse.Namespace, changes: Mapping[str, float | int | str]) -> str:
    """The command that was given, with some values changed; ready for a shell."""
    given = {**vars(arguments), **({"beta": f"{changes['beta']:g}"} if "beta" in changes else {})}
    words = ["icu-ray", "unlearn"]
    for name in _OPTIONS:
        value = given.get(name)
        if value not in (None, [], _DEFAULTS.get(name)):
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    replaced = {*changes, *({"methods.0.beta"} if "beta" in changes else ())}
    words += [text for text in arguments.overrides if text.partition("=")[0] not in replaced]
    words += [
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in changes.items()
        if key != "beta"
    ]
    return shlex.join(words)


_DEFAULTS = {"text_column": "text", "alpha": 0.5, "workers": 1, "precision": "fp32"}


@contextlib.contextmanager
def _output_to_error() -> Iterator[None]:
    """Inside, standard output goes where standard error goes: a sweep writes to the descriptor, not to sys.stdout."""
    sys.stdout.flush()
    before = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, 1)
        os.close(before)
