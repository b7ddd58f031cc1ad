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
    from icu_ray.config.recipes import RecipeValue

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
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="say what this config's recipe sets, and what the config changes (default: every key's own default)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _explain(arguments: argparse.Namespace) -> int:
    from icu_ray.config.keys import all_keys, explained

    if arguments.config is not None:
        return _explain_recipe(arguments)
    keys = all_keys() if arguments.key is None else explained(arguments.key)
    if arguments.json:
        print(json.dumps([dataclasses.asdict(key) for key in keys], ensure_ascii=False))
    elif len(keys) == 1:
        print(_whole(keys[0]))
        if keys[0].path == "recipe":
            print(f"\n{_recipes()}")
    else:
        print(columns([(key.path, key.default, _brief(key)) for key in keys], ("key", "default", "meaning")))
    return 0


def _explain_recipe(arguments: argparse.Namespace) -> int:
    from icu_ray.config.file import load_config
    from icu_ray.config.keys import written
    from icu_ray.config.recipes import recipe_values
    from icu_ray.config.shipped import find_config
    from icu_ray.errors import UserError

    if arguments.key not in (None, "recipe"):
        raise UserError(f"explain: --config is only about its recipe; leave out '{arguments.key}', or the option")
    path = find_config(arguments.config)
    config = load_config(path)
    found = recipe_values(config)
    if arguments.json:
        told = [dataclasses.asdict(each) for each in found]
        print(json.dumps({"recipe": config.recipe, "values": told}, ensure_ascii=False))
    elif config.recipe is None:
        print(f"{path} names no recipe: what it does not set has the defaults, which are ICU's (recipe: icu).")
    else:
        rows = [(each.key, written(each.value), _changed(each)) for each in found]
        print(columns(rows, ("key", config.recipe, "the config has")))
    return 0


def _changed(value: RecipeValue) -> str:
    from icu_ray.config.keys import written

    return ", ".join(f"{key}: {written(each)}" for key, each in value.changed.items())


def _recipes() -> str:
    """What each recipe sets."""
    from icu_ray.config.keys import written
    from icu_ray.config.recipes import RECIPES, flat

    told = []
    for name, recipe in RECIPES.items():
        rows = [(f"  {key}", written(value)) for key, value in flat(recipe).items()]
        told.append(f"{name}: {recipe.summary}\n{columns(rows, ('  key', 'value'))}")
    return "\n\n".join(told)


def _brief(key: Key) -> str:
    return f"{key.meaning} ({key.of})" if key.of else key.meaning


def _whole(key: Key) -> str:
    lines = {"meaning": _brief(key), "takes": key.takes.replace("`", ""), "default": key.default}
    lines |= {f"{name}": f"{value}, with fidelity={name}" for name, value in key.presets}
    alike: dict[str, list[str]] = {}
    for name, value in key.recipes:
        alike.setdefault(value, []).append(name)
    if alike:
        lines["recipe"] = "; ".join(f"{value} with {', '.join(names)}" for value, names in alike.items())
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
