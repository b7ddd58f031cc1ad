"""docs/reference/: made of the config's schema and the command line's parser, so that it says what they say.

python docs/generate.py          # after a change of icu_ray/config/ or icu_ray/cli/; a test compares
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from icu_ray import config as schema
from icu_ray.cli.main import make_parser
from icu_ray.config.file import FIDELITY_PRESETS

FOLDER = Path(__file__).parent / "reference"
_MADE = "<!-- Made by docs/generate.py; change the source, not this page. -->"


def pages() -> dict[str, str]:
    """File name in docs/reference/ -> content."""
    return {"config.md": config_page(), "cli.md": cli_page()}


def undocumented() -> list[str]:
    """Config keys without a sentence."""
    sentences = _sentences()
    return [
        f"{name}.{key}"
        for name, model in _models().items()
        for key in model.model_fields
        if not sentences.get((name, key))
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
    order = [name for name in _models() if name not in ("SweepConfig", "JudgeConfig", "PricesConfig")]
    for name in order:
        lines += _section(_heading(name), name)
    lines += _section("The judge's own file: `icu-ray judge --config FILE`", "JudgeConfig")
    lines += _section("The price file that `resources.prices` names", "PricesConfig")
    lines += ["## What `fidelity` sets", "", "| key | reference | paper |", "|---|---|---|"]
    presets = {name: dict(_flat(preset)) for name, preset in FIDELITY_PRESETS.items()}
    for key in dict.fromkeys([*presets["reference"], *presets["paper"]]):
        values = [f"`{_yaml(presets[side][key])}`" if key in presets[side] else "" for side in ("reference", "paper")]
        lines.append(f"| `{key}` | {values[0]} | {values[1]} |")
    lines += ["", "What is empty keeps its default.", ""]
    return "\n".join(lines)


@functools.cache
def _models() -> dict[str, type[BaseModel]]:
    """Every section by its class's name, in the order of the keys that lead to it."""
    found: dict[str, type[BaseModel]] = {"SweepConfig": schema.SweepConfig}
    sections = {name: each for name in schema.__all__ if _is_section(each := getattr(schema, name))}
    _add_sections(found, schema.SweepConfig, sections)
    return found | sections


def _is_section(each: Any) -> bool:
    return inspect.isclass(each) and issubclass(each, schema.Section) and each is not schema.Section


def _add_sections(found: dict[str, type[BaseModel]], model: type[BaseModel], sections: Mapping[str, Any]) -> None:
    for field in model.model_fields.values():
        for name, other in sections.items():
            if re.search(rf"\b{name}\b", str(field.annotation)) and name not in found:
                found[name] = other
                _add_sections(found, other, sections)


@functools.cache
def _sentences() -> dict[tuple[str, str], str]:
    """The text under each field, by (class, field): Python itself throws it away."""
    found = {}
    for model in _models().values():
        node = ast.parse(inspect.getsource(model)).body[0]
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    value = after.value if isinstance(after, ast.Expr) else None
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        found[node.name, field.target.id] = " ".join(value.value.split())
    return found


@functools.cache
def _places() -> dict[str, list[str]]:
    """Where in a config each class stands."""
    places: dict[str, list[str]] = {}

    def walk(name: str, prefix: str) -> None:
        for key, field in _models()[name].model_fields.items():
            for other in _models():
                if other in str(field.annotation):
                    many = "tuple[" in str(field.annotation) or "list[" in str(field.annotation)
                    place = f"{prefix}{key}" + (".<number>" if many else "")
                    if "dict[" in str(field.annotation):
                        place += ".<name>"
                    places.setdefault(other, []).append(place)
                    walk(other, f"{place}.")

    walk("SweepConfig", "")
    return places


def _heading(name: str) -> str:
    place = f"`{_places()[name][0]}`"
    source = _models()[name].model_fields.get("source")
    if source is not None and source.is_required():
        place += f" with `source: {source.annotation.__args__[0]}`"  # type: ignore[union-attr]
    return place


def _section(heading: str, name: str) -> list[str]:
    model = _models()[name]
    description = " ".join(inspect.getdoc(model).split()) if inspect.getdoc(model) else ""
    lines = [f"## {heading}", "", _escaped(description), "", "| key | value | default | meaning |", "|---|---|---|---|"]
    described = model.model_json_schema()
    for key, field in described["properties"].items():
        required = key in described.get("required", ())
        default = "required" if required else f"`{_yaml(field.get('default'))}`"
        if not required and "{" in default:
            default = "its own defaults"
        meaning = _escaped(_sentences().get((name, key), ""))
        lines.append(f"| `{key}` | {_value(field, described.get('$defs', {}))} | {default} | {meaning} |")
    return [*lines, ""]


def _value(field: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """What a key takes, in words."""
    if "$ref" in field:
        return "a section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "oneOf" in field:
        return "one of several sections"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_value(each, defs) for each in field["anyOf"]))
    kind = field.get("type", "anything")
    if kind == "array":
        if "prefixItems" in field:
            return f"[{', '.join(_value(each, defs) for each in field['prefixItems'])}]"
        return f"list of: {_value(field['items'], defs)}"
    if kind == "object":
        below = field.get("additionalProperties")
        return f"mapping to: {_value(below, defs)}" if isinstance(below, dict) else "mapping"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    bounds = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
    limits = [f"{sign} {field[bound]:g}" for bound, sign in bounds if bound in field]
    return " ".join([words.get(kind, kind), *limits])


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml(each) for each in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def cli_page() -> str:
    """Every command with its options and an example."""
    lines = [
        _MADE,
        "",
        "# Commands",
        "",
        "Exit codes: 0 done; 1 something failed, and it is said what; 2 the input was refused before anything ran; 130",
        "interrupted, the same command goes on.",
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
