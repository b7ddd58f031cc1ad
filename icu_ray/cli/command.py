"""What the sub-commands of `icu-ray` share: their shape, and how they read a config's or a sweep's name."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from icu_ray.console.terminal import width, wrapped
from icu_ray.console.verbosity import add_options
from icu_ray.errors import did_you_mean


class Help(argparse.HelpFormatter):
    """Wraps between words alone, not at a hyphen as argparse does, and leaves the example below as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines() if text.startswith("example:") else self._split_lines(text, width - len(indent))
        return "\n".join(indent + line for line in lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), columns=width).split("\n")


_KINDS = {"float": "a number", "int": "a whole number", "positive": "a whole number of at least 1"}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in a line or two, with the nearest word that it knows, in place of all usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)$", message)
        known = [] if choice is None else re.findall(r"'([^']+)'", choice[2])
        if choice is not None and known:
            message = message[: choice.start()] + f"'{choice[1]}' is not known{did_you_mean(choice[1], known)}"
            message += f"; known: {', '.join(known)}"
        for kind, expected in _KINDS.items():
            message = message.replace(f"invalid {kind} value: ", f"expected {expected}, found ")
        self.exit(2, wrapped(f"{self.prog}: {message}; see {self.prog} --help", columns=width(sys.stderr)) + "\n")


def add_command(
    commands: Any,
    name: str,
    summary: str,
    example: str,
    run: Callable[[argparse.Namespace], int],
    *,
    progress: bool = False,
) -> Any:
    """A parser whose --help shows an example; `run` returns the exit code. progress: it says how far it is."""
    parser = _parser(commands, name, summary, example)
    if progress:
        add_options(parser)
    parser.set_defaults(run=run)
    return parser


def add_group(commands: Any, name: str, summary: str, example: str) -> Any:
    """A command of several commands, which are added to what is returned."""
    return _parser(commands, name, summary, example).add_subparsers(required=True, metavar="COMMAND")


def _parser(commands: Any, name: str, summary: str, example: str) -> Any:
    return commands.add_parser(
        name, help=summary, description=summary, epilog=f"example:\n  {example}", formatter_class=Help
    )


def add_config(parser: Any) -> None:
    """The config that a command takes, as `split_config` reads it."""
    parser.add_argument("config", nargs="?", help="YAML file or name of a shipped config (default: quickstart)")
    add_overrides(parser)


def add_overrides(parser: Any) -> None:
    """Keys of the config that are set on the command line."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="config keys to set, e.g. optim.lr=1e-5; 'icu-ray explain' lists them (default: as the config says)",
    )


FORMS = ("prompt_column", "completion_column", "messages_column", "template")
"""What says how the rows of a file are written, besides --text-column."""


def add_forms(parser: Any) -> None:
    """Options for rows of prompt and completion, and for chats."""
    parser.add_argument(
        "--prompt-column",
        metavar="NAME",
        help="column of prompts, which are given (default: question or prompt, in a file without a column text)",
    )
    parser.add_argument(
        "--completion-column", metavar="NAME", help="column of what follows a prompt (default: answer or completion)"
    )
    parser.add_argument(
        "--messages-column", metavar="NAME", help="column of chats, lists of {role, content} (default: messages)"
    )
    parser.add_argument(
        "--template",
        choices=("plain", "question-answer", "chat"),
        help="how a prompt and its completion become one text (default: plain where --prompt-column is given; else "
        "chat if the model has a chat template; else question-answer or plain, as the columns are called)",
    )


def add_asked_models(parser: Any, *, precision: str | None, precision_default: str = "fp32") -> None:
    """Options of a command that asks any models and keeps what it finds. precision_default: as --help says it."""
    parser.add_argument(
        "--model", required=True, nargs="+", metavar="DIR_OR_ID", help="folders, hub ids or GGUF files of models"
    )
    parser.add_argument(
        "--storage", default="./runs", metavar="DIR", help="folder or URL where results are kept (default: ./runs)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default=precision,
        help=f"number format of the weights (default: {precision_default})",
    )
    parser.add_argument(
        "--revision",
        metavar="NAME",
        help="revision of the models on the hub, a branch, tag or commit; folders and files have none (default: their "
        "main branch)",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that a model's folder brings (default: refuse)"
    )


def positive(text: str) -> int:
    """An option's whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text}")
    return value


def split_config(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """A leading config name, if the first argument is none of the form key=value, and the overrides."""
    given = [argument for argument in arguments if argument]
    if given and "=" not in given[0]:
        return given[0], given[1:]
    return None, given


def split_sweep(folder: str) -> tuple[str, str]:
    """(storage, sweep name) of a sweep's folder, a path or URL."""
    storage, _, name = folder.rstrip("/").rpartition("/")
    return storage or ".", name
