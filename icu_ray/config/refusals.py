"""What pydantic finds wrong in a config, in words: file and key, what was expected and found, the nearest known key.

except ValidationError as error: raise UserError(explain(error, SweepConfig, "config mine.yaml", ["optim.lr=x"]))
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from icu_ray.config.section import Section
from icu_ray.errors import did_you_mean, is_secret_name, without_secrets


def explain(error: ValidationError, kind: type[Section], where: str, overrides: Sequence[str]) -> str:
    """One line a problem: file (of a key that was typed as an override: that), key, what was expected and found."""
    problems: dict[str, list[tuple[str, str]]] = {}
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"] if not _is_internal(part))
        problems.setdefault(key, []).append((item["type"], _said(item, key, kind)))
    lines = []
    for key, said in problems.items():
        typed = [each for each in overrides if f"{key}.".startswith(f"{each.partition('=')[0]}.")]
        origin = typed_override(typed[-1]) if typed else where
        deeper = any(other.startswith(f"{key}.") for other in problems)
        # A list with a wrong item is also reported as too short, and a number as no list.
        telling = [text for code, text in said if not (deeper and code in ("too_short", *_TYPE_ERRORS))]
        better = [text for code, text in said if code not in _TYPE_ERRORS]
        for text in (better if better and len(said) > 1 else telling)[:1]:
            lines.append(f"{origin}: {key + ': ' if key else ''}{text}")
    return "\n".join(dict.fromkeys(lines))


_TYPE_ERRORS = ("float_type", "int_type", "tuple_type", "list_type", "string_type")


def _is_internal(part: int | str) -> bool:
    """Whether a part of pydantic's location is no key of the file but the branch of a union."""
    tags = ("synthetic", "extraction", "records", "tofu", "muse", "wmdp", "rwku", "float")
    return isinstance(part, str) and (part in tags or "[" in part or "-" in part)


def _said(item: Mapping[str, Any], key: str, root: type[Section]) -> str:
    kind, found = item["type"], item.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(root, item["loc"][:-1])
        return f"unknown key{did_you_mean(key.split('.')[-1], known)}; known: {', '.join(known)}"
    if kind == "union_tag_invalid":
        context = item["ctx"]
        return f"source: expected {context['expected_tags']}, found '{context['tag']}'"
    if kind == "union_tag_not_found":
        return "source is missing; expected 'synthetic', 'extraction', 'records', 'tofu', 'muse', 'wmdp' or 'rwku'"
    message = (
        item["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "expected")
        .replace("a valid array", "a list, such as [0, 1]")
        .replace("Field required", "required, and missing")
    )
    if kind in ("missing", "value_error"):
        return str(message)
    words = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if kind == "literal_error" else []
    near = did_you_mean(found, words) if isinstance(found, str) else ""
    return f"{message}, found {_brief(found)}{near}"


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(root: type[Section], location: Sequence[int | str]) -> list[str]:
    """The keys of the section at `location`, found by walking the schema's annotations."""
    current: list[Any] = [root]
    for part in location:
        if isinstance(part, int):
            continue
        following: list[Any] = []
        for model in current:
            if part in model.model_fields:
                following += _sections(model.model_fields[part].annotation)
            elif "source" in model.model_fields:
                following.append(model)
        tagged = [m for m in current if _tag(m) == part]
        current = tagged or following or current
    return sorted({name for model in current for name in model.model_fields})


def _sections(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _sections(argument)]


def _tag(model: Any) -> str | None:
    field = model.model_fields.get("source")
    arguments: list[Any] = list(getattr(field.annotation, "__args__", ())) if field is not None else []
    return str(arguments[0]) if len(arguments) == 1 and isinstance(arguments[0], str) else None


def typed_override(override: str) -> str:
    """An override as it was typed, but for what may be a secret."""
    key, _, value = override.partition("=")
    secret = is_secret_name(key) and not re.fullmatch(r"[\d.e+-]*", value)
    return f"override '{key}=...'" if secret else f"override '{without_secrets(override)}'"
