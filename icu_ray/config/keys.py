"""What every key of a config means, takes and defaults to: what `icu-ray explain` and docs/reference/config.md say.

    for key in explained("lr"): print(key.path, key.takes, key.default, key.meaning)

The meaning is the sentence under the key in this package's files. Python throws such sentences away, so they are read
from the source.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from icu_ray import config as schema
from icu_ray.config.file import FIDELITY_PRESETS
from icu_ray.config.recipes import RECIPES, flat
from icu_ray.errors import UserError, did_you_mean

ROOT = "SweepConfig"
OWN_FILES: tuple[type[BaseModel], ...] = (schema.JudgeConfig, schema.PricesConfig)
"""Sections that are files of their own: the judge's, and that of prices."""


@dataclass(frozen=True)
class Key:
    """path: as it is written, `models.<number>.lr`. section: the class that holds it. default: as in YAML, or words.

    of: 'source: records' for a key that only this kind of section has, else ''. below: the sections under this key, by
    their classes' names. presets: (name, value) of what `fidelity` sets it to; recipes: of what `recipe` does.
    """

    path: str
    section: str
    takes: str
    default: str
    meaning: str
    of: str = ""
    below: tuple[str, ...] = ()
    presets: tuple[tuple[str, str], ...] = ()
    recipes: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit(".", 1)[-1]

    def plain(self) -> str:
        """The path without the places of items: models.lr."""
        return re.sub(r"\.<\w+>", "", self.path)


def explained(asked: str) -> list[Key]:
    """The keys that `asked` means: one, those of a section, or all of that last name; UserError where there is none.

    asked: 'optim.lr', 'optim', 'lr', 'models.0.workers' or 'models.workers'; '=value' behind it counts for nothing.
    """
    wanted = re.sub(r"\.(\d+|<\w+>)(?=\.|$)", "", asked.split("=", 1)[0].strip())
    keys = all_keys()
    exact = [key for key in keys if wanted in (key.path, key.plain())]
    below = [key for key in keys if key.plain().rpartition(".")[0] == wanted]
    found = list(dict.fromkeys([*exact, *below])) or [key for key in keys if key.name == wanted]
    if not found:
        known = {each: None for key in keys for each in (key.plain(), key.name)}
        near = did_you_mean(wanted, known)
        raise UserError(f"explain: there is no key '{asked}'{near}; 'icu-ray explain' lists all of them")
    return found


@functools.cache
def all_keys() -> tuple[Key, ...]:
    """Every key of a sweep's config, in the order of its sections."""
    return tuple(_walk(ROOT, ""))


def _walk(name: str, prefix: str) -> Iterator[Key]:
    model = models()[name]
    described = model.model_json_schema()
    source = model.model_fields.get("source")
    of = f"source: {source.annotation.__args__[0]}" if source is not None and source.is_required() else ""  # type: ignore[union-attr]
    for field, shape in described["properties"].items():
        kind = str(model.model_fields[field].annotation)
        below = tuple(other for other in models() if re.search(rf"\b{other}\b", kind))
        path = f"{prefix}{field}"
        required = field in described.get("required", ())
        yield Key(
            path,
            name,
            takes(shape),
            default_of(shape, required),
            sentences().get((name, field), ""),
            of,
            below,
            tuple((p, written(value)) for p in FIDELITY_PRESETS if (value := _preset(p, path)) is not None),
            tuple((r, written(flat(told)[path])) for r, told in RECIPES.items() if path in flat(told)),
        )
        for other in below:
            yield from _walk(other, f"{path}{_item(kind)}.")


def _item(kind: str) -> str:
    """How the items of a list or mapping are written in a path."""
    return (".<number>" if "tuple[" in kind or "list[" in kind else "") + (".<name>" if "dict[" in kind else "")


def _preset(name: str, path: str) -> Any:
    found: Any = FIDELITY_PRESETS[name]
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return None if isinstance(found, Mapping) else found


@functools.cache
def models() -> dict[str, type[BaseModel]]:
    """Every section by its class's name, in the order of the keys that lead to it; those of files of their own last."""
    found: dict[str, type[BaseModel]] = {ROOT: schema.SweepConfig}
    _add_sections(found, schema.SweepConfig, dict(sorted(_subclasses(schema.Section))))
    return found | {each.__name__: each for each in OWN_FILES}


def _subclasses(of: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for each in of.__subclasses__():
        yield each.__name__, each
        yield from _subclasses(each)


def _add_sections(found: dict[str, type[BaseModel]], model: type[BaseModel], sections: Mapping[str, Any]) -> None:
    for field in model.model_fields.values():
        for name, other in sections.items():
            if re.search(rf"\b{name}\b", str(field.annotation)) and name not in found:
                found[name] = other
                _add_sections(found, other, sections)


@functools.cache
def sentences() -> dict[tuple[str, str], str]:
    """The text under each field, by (class, field)."""
    found = {}
    for model in models().values():
        node = ast.parse(inspect.getsource(model)).body[0]
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    value = after.value if isinstance(after, ast.Expr) else None
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        found[node.name, field.target.id] = " ".join(value.value.split())
    return found


@functools.cache
def places() -> dict[str, list[str]]:
    """Where in a config each class stands: 'models.<number>'."""
    found: dict[str, list[str]] = {}
    for key in all_keys():
        kind = str(models()[key.section].model_fields[key.name].annotation)
        for other in key.below:
            found.setdefault(other, []).append(key.path + _item(kind))
    return found


def default_of(shape: Mapping[str, Any], required: bool) -> str:
    """The default as YAML, 'required', or 'its own defaults' for a section."""
    if required:
        return "required"
    default = written(shape.get("default"))
    return "its own defaults" if "{" in default else default


def takes(field: Mapping[str, Any]) -> str:
    """What a key takes, in words. field: its JSON schema."""
    if "$ref" in field:
        return "a section"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "discriminator" in field:
        return "one of several sections"
    if either := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(takes(each) for each in either))
    kind = field.get("type", "anything")
    if kind == "array":
        if "prefixItems" in field:
            return f"[{', '.join(takes(each) for each in field['prefixItems'])}]"
        return f"list of: {takes(field['items'])}"
    if kind == "object":
        below = field.get("additionalProperties")
        return f"mapping to: {takes(below)}" if isinstance(below, dict) else "mapping"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "null",
    }
    limits = {bound: _number(field[bound]) for bound in _BOUNDS if bound in field}
    if "exclusiveMinimum" in field and field.get("minimum", math.inf) <= field["exclusiveMinimum"]:
        limits.pop("minimum", None)  # a section that wants more than its type does has both
    if set(limits) == {"minimum", "maximum"}:
        return f"{words.get(kind, kind)} from {limits['minimum']} to {limits['maximum']}"
    said = " and ".join(f"{_BOUNDS[bound]} {limit}" for bound, limit in limits.items())
    return f"{words.get(kind, kind)} {said}".rstrip()


_BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below"}


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def written(value: Any) -> str:
    """A value as YAML on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(written(each) for each in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(each)}" for key, each in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)
