"""icu-ray completion: what a shell needs to complete this command line with the Tab key."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_command

SHELLS = ("bash", "zsh", "tcsh")
_FOLDERS = ("DIR", "SWEEP_DIR")
_FILES = ("FILE", "FILE.yaml", "TABLE.csv", "SOURCE", "DIR_OR_ID")


def add(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Register the sub-command. whole: the parser that is to be completed."""
    parser = add_command(
        commands,
        "completion",
        "Print a script that lets the Tab key complete commands, options, files and shipped configs.",
        "icu-ray completion bash > ~/.local/share/bash-completion/completions/icu-ray",
        partial(_completion, whole),
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell whose script is printed")


def _completion(whole: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    import shtab

    from icu_ray.config.shipped import shipped_configs

    configs = " ".join(shipped_configs())
    # shtab tells bash that words are file names, which end in '/' or a space, where a function's name says "_file".
    name = "_icu_ray_config_files"
    names = {"bash": name, "zsh": name, "tcsh": f"({configs})"}
    bash = [f'compgen -W "{configs}" -- "$1"', 'compgen -d -- "$1"', 'compgen -f -X "!*.yaml" -- "$1"']
    zsh = [f"_alternative 'configs:shipped config:({configs})' 'files:file:_files -g \"*.yaml\"'"]
    preamble = {shell: f"{name}() {{ {'; '.join(does)}; }}" for shell, does in (("bash", bash), ("zsh", zsh))}
    for action in _actions(whole):
        if action.dest == "config" and not action.option_strings:
            action.complete = names  # type: ignore[attr-defined]
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in _FILES or action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, arguments.shell, preamble=preamble.get(arguments.shell, "")))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of the commands below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
