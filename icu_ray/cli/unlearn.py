"""icu-ray unlearn: one deletion request, without a grid."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import FORMS, add_command, add_forms, add_overrides
from icu_ray.console.terminal import whole, wrapped
from icu_ray.console.verbosity import teller
from icu_ray.requests.wording import named_as_typed

if TYPE_CHECKING:
    from icu_ray.requests.unlearn import Unlearned

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
        help="folder, hub id or GGUF file of the model (default: standin, a small language model that is first trained "
        "here to know the texts)",
    )
    parser.add_argument(
        "--forget",
        metavar="FILE",
        help="the texts to forget: .jsonl, .json, .csv, .tsv or .parquet, or a data set, "
        "hub:OWNER/NAME@REVISION#CONFIGURATION:SPLIT; --retain and --heldout take the same (default: made-up records, "
        "only with a stand-in)",
    )
    add_files(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for the model, the report and all other files"
    )
    parser.add_argument(
        "--also-check",
        nargs="+",
        default=[],
        metavar="FILE",
        help="texts of earlier requests, to check whether they are still forgotten; same columns as --forget "
        "(default: none)",
    )
    parser.add_argument(
        "--request-id", metavar="NAME", help="name of the request in its record (default: the trial's id)"
    )
    parser.add_argument("--asked-by", metavar="NAME", help="who asks, for the record (default: not said)")
    add_settings(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done, and start nothing (default: do it)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON; progress goes to standard error")


def add_files(parser: Any) -> None:
    """Options for the texts that a model may keep, and for those that it has never read."""
    parser.add_argument(
        "--retain",
        metavar="FILE",
        help="texts that it may keep; each text to forget is paired with the one most like it (default: none, and then "
        "only gradient ascent is possible, which costs a model much more)",
    )
    parser.add_argument(
        "--heldout",
        metavar="FILE",
        help="texts that the model has never read: they show what forgetting costs; 16 or more also set the "
        "thresholds (default: a tenth of --retain, which shows only the cost)",
    )


def add_settings(parser: Any) -> None:
    """Options for how the files are written and how the model unlearns, and config keys."""
    parser.add_argument("--text-column", default="text", metavar="NAME", help="column of the texts (default: text)")
    add_forms(parser)
    parser.add_argument("--id-column", metavar="NAME", help="column of the texts' ids (default: rows are numbered)")
    parser.add_argument(
        "--subject-column",
        metavar="NAME",
        help="column of --forget that says whose data a text is; the answer is then by subject too (default: none)",
    )
    parser.add_argument(
        "--method",
        metavar="NAME",
        help="how to unlearn, see 'icu-ray list methods' (default: icu; without --retain kumpr)",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=0.5,
        metavar="NUMBER",
        help="weight of learning the pairs, 0 or more (default: 0.5)",
    )
    parser.add_argument(
        "--beta",
        type=float,
        metavar="NUMBER",
        help="weight of staying near the original, 0 or more (default: 1; for a stand-in 4)",
    )
    parser.add_argument(
        "--length",
        type=int,
        metavar="TOKENS",
        help="tokens of a row (default: of the longest text; for a stand-in 128)",
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="COUNT", help="processes that train together (default: 1)"
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="COUNT",
        help="GPUs of each worker (default: 1 where there is one; for a stand-in 0)",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="number format of the weights (default: fp32)"
    )
    parser.add_argument(
        "--suite",
        nargs="+",
        default=[],
        metavar="NAME",
        help="tasks that the model is given before and after: lm_eval, icu or quick, see 'icu-ray list tasks' "
        "(default: none)",
    )
    parser.add_argument(
        "--mirror", metavar="DIR", help="folder of 'icu-ray data mirror' with the rows of --suite (default: the hub)"
    )
    parser.add_argument(
        "--audit",
        metavar="A,B",
        help="attacks that then ask whether the texts come back, separated by commas, or all; 'icu-ray list attacks' "
        "says what each does (default: none)",
    )
    add_overrides(parser)


SETTINGS = (
    *("text_column", *FORMS, "id_column", "subject_column", "method", "alpha", "beta", "length", "workers", "gpus"),
    *("precision", "mirror", "overrides"),
)
"""What `add_settings` takes, as `unlearn_config` does; the option --suite is its `suites`."""


def _typed(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("looking at the model and the texts ...")
    with named_as_typed("--{}".format, arguments.overrides):
        return _unlearn(arguments)


def _unlearn(arguments: argparse.Namespace) -> int:
    from icu_ray.config.auditing import attacks_typed
    from icu_ray.data.records import reading_once
    from icu_ray.errors import without_secrets
    from icu_ray.requests.record import Asked, said_of_earlier
    from icu_ray.requests.request_config import unlearn_config
    from icu_ray.requests.unlearn import plan_request, request_json, unlearn

    named = ("retain", "heldout", "text_column", *FORMS, "id_column", "subject_column", "method", "alpha", "beta")
    options = {name: getattr(arguments, name) for name in (*named, "length", "workers", "gpus", "precision")}
    options |= {"say": teller(), "suites": arguments.suite}
    options |= {"mirror": arguments.mirror, "overrides": arguments.overrides}
    options |= {"audit": attacks_typed(arguments.audit, "--audit")}
    if arguments.dry_run:
        from icu_ray.console.terminal import rich_console
        from icu_ray.report.terminal.plan_table import plan_json, print_plan

        with reading_once():
            config = unlearn_config(arguments.model, forget=arguments.forget, out=arguments.out, **options)
            plan = plan_request(config, dry_run=True)
        if arguments.json:
            print(plan_json(plan))
        else:
            print_plan(plan, rich_console())
        return 0
    command = without_secrets(shlex.join(["icu-ray", *arguments.words]))
    asked = Asked(command, arguments.request_id, arguments.asked_by, tuple(arguments.also_check))
    with output_to_error() if arguments.json else contextlib.nullcontext():
        done = unlearn(arguments.model, forget=arguments.forget, out=arguments.out, asked=asked, **options)
    earlier = said_of_earlier(done.record) if done.record and asked.also_check else []
    if arguments.json:
        print(json.dumps(request_json(done), ensure_ascii=False))
        return done.command_code
    if done.result is None:
        return done.command_code
    print(answer(done, [said for said, _ in earlier]))
    for each in done.next_tries:
        print("\n" + wrapped(f"Next: {each.why}"))
        print(f"  {next_command(arguments, each.changes)}")
    return done.command_code


def answer(done: Unlearned, earlier: Sequence[str] = (), columns: int | None = None) -> str:
    """What a person reads of a request that has ended. earlier: lines of texts of earlier requests.

    columns: the terminal's (None: of this one); only a path may be longer than a line.
    """
    from icu_ray.requests.unlearn import settings_said

    assert done.result is not None
    verdict = done.verdict
    lines = [""]

    def say(what: str, said: str, wide: int) -> None:
        lines.extend(map(str.rstrip, f"  {what:<{wide}} {wrapped(said, wide + 3, columns)}".split("\n")))

    if verdict is None:
        lines.append(wrapped("Forgotten." if done.forgotten else f"NOT forgotten: {done.result.reason}", 0, columns))
    else:
        lines.append(wrapped(verdict.headline, 0, columns))
        for question, sentences in verdict.lines:
            for place, said in enumerate(sentences):
                say("" if place else question, said, 16)
    for place, each_subject in enumerate(done.by_subject[:SUBJECTS_SHOWN]):
        say("" if place else "by subject", each_subject.said, 16)
    if len(done.by_subject) > SUBJECTS_SHOWN:
        rest = done.by_subject[SUBJECTS_SHOWN:]
        say("", f"of {len(rest)} more subjects, {sum(one.all for one in rest)} are wholly forgotten", 16)
    for what, said in settings_said(done.result).items():
        say(what, said, 30)
    if done.model is not None:
        say("model", whole(done.model), 30)
    if done.kept is not None:
        say("kept, of an earlier request", f"{whole(done.kept)}: it is a success, and this one's model is none", 30)
    for what, path in (("report", "report.html"), ("every text", "targets.csv"), ("record", "record.html")):
        if (done.folder / path).exists():
            say(what, whole(done.folder / path), 30)
    for said in earlier:
        say("texts of an earlier request", said, 30)
    return "\n".join(lines)


# In this order: what takes several values stands before another option, not before the overrides.
_OPTIONS = (
    *("suite", "model", "forget", "retain", "heldout", "out", "text_column", *FORMS, "id_column", "subject_column"),
    *("method", "alpha", "beta", "length", "workers", "gpus", "precision", "mirror", "audit"),
    *("also_check", "request_id", "asked_by"),
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


_DEFAULTS = {"audit": "", "text_column": "text", "alpha": 0.5, "workers": 1, "precision": "fp32"}


@contextlib.contextmanager
def output_to_error() -> Iterator[None]:
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
