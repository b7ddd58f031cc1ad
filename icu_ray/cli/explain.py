"""icu-ray explain: what a key of a config means, takes and defaults to."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from icu_ray.cli.command import add_command
from icu_ray.console.terminal import columns, wrapped

if TYPE_CHECKING:
    from icu_ray.config.keys import Key

_INDENT = 12


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "explain",
        "What a key of a config means, which values it takes and what it is by default.",
        "icu-ray explain optim.lr",
        _explain,
    )
    parser.add_argument(
        "key", nargs="?", metavar="KEY", help="a key (optim.lr, lr, models.0.workers) or a section (default: all keys)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _explain(arguments: argparse.Namespace) -> int:
    from icu_ray.config.keys import all_keys, explained

    keys = all_keys() if arguments.key is None else explained(arguments.key)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(key) for key in keys], ensure_ascii=False))
    elif len(keys) == 1:
        print(_whole(keys[0]))
    else:
        print(columns([(key.path, key.default, _brief(key)) for key in keys], ("key", "default", "meaning")))
    return 0


def _brief(key: Key) -> str:
    return f"{key.meaning} ({key.of})" if key.of else key.meaning


def _whole(key: Key) -> str:
    lines = {"meaning": _brief(key), "takes": key.takes.replace("`", ""), "default": key.default}
    lines |= {f"{name}": f"{value}, with fidelity={name}" for name, value in key.presets}
    said = {what: wrapped(text, _INDENT) for what, text in lines.items()}
    # A command is not wrapped.
    path = key.path.replace("<number>", "0")
    if key.below:
        said["its keys"] = f"icu-ray explain {key.plain()}."
    elif "<" not in path:
        said["example"] = f"icu-ray sweep mine.yaml {path}={_example(key)}"
    return "\n".join([key.path, *(f"  {what:<{_INDENT - 2}}{text}" for what, text in said.items())])


def _example(key: Key) -> str:
    """A value for the example: another than the default where the key names its values."""
    values = [each.strip(" `") for each in key.takes.split(",")] if key.takes.startswith("`") else []
    other = [value for value in values if value != key.default]
    if key.takes == "true or false":
        other = ["false" if key.default == "true" else "true"]
    return (other or [key.default if key.default not in ("required", "null") else "VALUE"])[0]
