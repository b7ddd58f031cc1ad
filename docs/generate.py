"""docs/reference/: made of the config's schema and the command line's parser, so that it says what they say.

python docs/generate.py          # after a change of icu_ray/config/ or icu_ray/cli/; a test compares
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path

from icu_ray.cli.main import make_parser
from icu_ray.config.file import FIDELITY_PRESETS
from icu_ray.config.keys import default_of, models, places, sentences, takes, written
from icu_ray.config.recipes import RECIPES, by_key, flat

FOLDER = Path(__file__).parent / "reference"
_MADE = "<!-- Made by docs/generate.py; change the source, not this page. -->"


def pages() -> dict[str, str]:
    """File name in docs/reference/ -> content."""
    return {"config.md": config_page(), "cli.md": cli_page()}


def undocumented() -> list[str]:
    """Config keys without a sentence."""
    known = sentences()
    return [
        f"{name}.{key}" for name, model in models().items() for key in model.model_fields if not known.get((name, key))
    ]


def config_page() -> str:
    """Every key of a config, by section."""
    lines = [
        _MADE,
        "",
        "# Config keys",
        "",
        "A config is a YAML file: `icu-ray sweep mine.yaml`. Any key can be set behind it, `optim.lr=1e-5`, items of",
        "lists by their number, `models.0.workers=2`. `base: other.yaml` takes over another file, whose mappings are",
        "merged and whose lists are replaced. A key that is not known is refused.",
        "",
    ]
    lines += _section("The top level", "SweepConfig")
    order = [name for name in models() if name not in ("SweepConfig", "JudgeConfig", "PricesConfig")]
    for name in order:
        lines += _section(_heading(name), name)
    lines += _section("The judge's own file: `icu-ray judge --config FILE`", "JudgeConfig")
    lines += _section("The price file that `resources.prices` names", "PricesConfig")
    lines += ["## What `fidelity` sets", "", "| key | reference | paper |", "|---|---|---|"]
    presets = {name: dict(by_key(preset)) for name, preset in FIDELITY_PRESETS.items()}
    for key in dict.fromkeys([*presets["reference"], *presets["paper"]]):
        values = [f"`{written(presets[side][key])}`" if key in presets[side] else "" for side in ("reference", "paper")]
        lines.append(f"| `{key}` | {values[0]} | {values[1]} |")
    lines += ["", "What is empty keeps its default.", "", "## What `recipe` sets", ""]
    lines += [f"- `{name}`: {recipe.summary}" for name, recipe in RECIPES.items()]
    told = {name: flat(recipe) for name, recipe in RECIPES.items()}
    lines += ["", f"| key | {' | '.join(told)} |", "|---" * (len(told) + 1) + "|"]
    for key in dict.fromkeys(key for values in told.values() for key in values):
        values = [f"`{written(each[key])}`" if key in each else "" for each in told.values()]
        lines.append(f"| `{key}` | {' | '.join(values)} |")
    lines += ["", "What is empty keeps its default. `methods.NAME` is each item of `methods` with that name.", ""]
    return "\n".join(lines)


def _heading(name: str) -> str:
    place = f"`{places()[name][0]}`"
    source = models()[name].model_fields.get("source")
    if source is not None and source.is_required():
        place += f" with `source: {source.annotation.__args__[0]}`"  # type: ignore[union-attr]
    return place


def _section(heading: str, name: str) -> list[str]:
    model = models()[name]
    description = " ".join(inspect.getdoc(model).split()) if inspect.getdoc(model) else ""
    lines = [f"## {heading}", "", _escaped(description), "", "| key | value | default | meaning |", "|---|---|---|---|"]
    described = model.model_json_schema()
    for key, field in described["properties"].items():
        default = default_of(field, key in described.get("required", ()))
        if default not in ("required", "its own defaults"):
            default = f"`{default}`"
        meaning = _escaped(sentences().get((name, key), ""))
        lines.append(f"| `{key}` | {takes(field)} | {default} | {meaning} |")
    return [*lines, ""]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def cli_page() -> str:
    """Every command with its options and an example."""
    lines = [
        _MADE,
        "",
        "# Commands",
        "",
        "Exit codes: 0 done; 1 something failed, and the output says what; 2 the input was refused before anything",
        "ran; 130 interrupted, and the same command continues.",
        "",
    ]
    for name, parser in _commands("icu-ray", make_parser()):
        lines += [f"## {name}", "", _escaped(parser.description or ""), ""]
        shown = [action for action in parser._actions if action.dest not in ("help", "version") and action.help]
        shown += [action for action in parser._actions if not action.help and not action.option_strings]
        if any(not isinstance(action, argparse._SubParsersAction) for action in shown):
            lines += ["| argument | meaning |", "|---|---|"]
            for action in shown:
                if not isinstance(action, argparse._SubParsersAction):
                    lines.append(f"| {_argument(action)} | {_escaped(action.help or '')} |")
            lines.append("")
        example = (parser.epilog or "").removeprefix("example:\n")
        lines += ["<!-- not run: an example of the form -->", "```bash", inspect.cleandoc(example), "```", ""]
    return "\n".join(lines)


def _commands(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Those that do something, by their whole name."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for command, deeper in action.choices.items():
            yield from _commands(f"{name} {command}", deeper)


def _argument(action: argparse.Action) -> str:
    value = action.metavar or (None if action.nargs == 0 else action.dest.upper())
    if action.choices is not None:
        value = "{" + ",".join(action.choices) + "}"
    many = " ..." if action.nargs in ("*", "+") else ""
    if not action.option_strings:
        required = action.nargs not in ("?", "*")
        return f"`{value or action.dest}{many}`" + ("" if required else " (optional)")
    shown = action.option_strings[-1] + (f" {value}{many}" if value else "")
    return f"`{shown}`" + (" (required)" if action.required else "")


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in pages().items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
