"""The command `icu-ray`: one file a sub-command beside this one, each a thin layer over a package.

Exit codes: 0 done; 1 some trials failed; 2 the input was refused before anything ran; 130 interrupted, resumable.

Why argparse and not Typer: the completion (shtab) and the reference (docs/generate.py) are made of these parsers, and
`python -m icu_ray.sweep` has one of its own. Typer would be a second way beside them and change nothing that is typed.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence

from icu_ray import __version__
from icu_ray.cli import (
    audit,
    compare,
    completion,
    data,
    doctor,
    evaluate,
    explain,
    export,
    human,
    importing,
    init,
    judge,
    listing,
    plan,
    probe,
    report,
    requests,
    score,
    status,
    submit,
    sweep,
    sync,
    unlearn,
)
from icu_ray.cli.command import Help, Parser
from icu_ray.console.exit_codes import exit_code
from icu_ray.console.verbosity import chosen, verbosity

COMMANDS = (
    *(
        sweep,
        submit,
        status,
        unlearn,
        requests,
        plan,
        probe,
        evaluate,
        audit,
        score,
        judge,
        human,
        report,
        compare,
        export,
        importing,
    ),
    *(sync, data, doctor, init, listing, explain),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; the process's exit code."""
    # Advice of libraries is not part of what this command says; of their bars those of downloads are, on a terminal.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    arguments = _parse(argv)
    return exit_code("icu-ray", lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = arguments.run
    with chosen(getattr(arguments, "verbosity", None)):
        if verbosity() == "quiet" or not sys.stderr.isatty():
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        return run(arguments)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; key=value may also stand behind an option, where argparse no longer expects it."""
    parser = make_parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        parser.exit(2)
    arguments, rest = parser.parse_known_args(argv)
    arguments.words = list(sys.argv[1:] if argv is None else argv)  # for the record of what was asked
    if rest and not (hasattr(arguments, "overrides") and all(text[0] != "-" and "=" in text for text in rest)):
        command = _command(parser, arguments.words)
        known = {option.lstrip("-"): option for action in command._actions for option in action.option_strings}
        near = (difflib.get_close_matches(text.lstrip("-"), known, 1, 0.6) for text in rest if text.startswith("--"))
        said = next((f" (did you mean '{known[found[0]]}'?)" for found in near if found), "")
        command.error(f"unrecognized arguments: {' '.join(rest)}{said}")
    if rest:
        arguments.overrides += rest
    return arguments


def _command(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The sub-command that was typed."""
    for word in words:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        typed = next((group.choices[word] for group in groups if word in group.choices), None)
        if typed is None:
            break
        parser = typed
    return parser


def make_parser() -> argparse.ArgumentParser:
    """The whole command line: what the completion and the reference are made of, too."""
    parser = Parser(
        prog="icu-ray",
        description="Iterative contrastive unlearning of language models on Ray.",
        epilog="example:\n  icu-ray sweep quickstart",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"icu-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    completion.add(commands, parser)
    return parser
