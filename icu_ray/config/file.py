"""Reading a config: YAML (safe), `base:` files below it, the fidelity preset, `key=value` overrides, strict validation.

    config = load_config(Path("tune_configs/quickstart.yaml"), ["optim.lr=1e-4"])

Whatever is wrong raises `UserError` naming file and key, what was found and what was expected, with the nearest known
key. The presets hold the choices where the paper and the authors' code differ; each can also be set by itself.

Why not OmegaConf or Hydra: layers and overrides are the short part here. The long part is messages that name the file,
the key and the nearest known one; pydantic finds what is wrong, and a second schema beside it would have to be kept
equal to it. Interpolation, which they bring, hides values from who reads a config.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from icu_ray.config import RecordsData, Section, SweepConfig
from icu_ray.config.recipes import for_method, recipe_of
from icu_ray.config.refusals import explain, typed_override
from icu_ray.errors import UserError, did_you_mean

_S = TypeVar("_S", bound=Section)
DEEPEST = 64
"""Levels of lists and mappings in one another."""
MOST_VALUES = 1_000_000
"""Of a file with its aliases written out; the largest config that is shipped has some hundred."""

FIDELITY_PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "default": {},
    "reference": {
        "loss": {"span": "all", "reduction": "token_mean", "kl": "reference_ce", "kl_positions": "padded"},
        "tokens": {"retokenize": "always", "cleanup": False, "alignment": "reference", "positions": "padded"},
        "filter": {
            "rule": "or",
            "sticky": False,
            "at_start": True,
            "prompt": "prefix",
            "strip_special": False,
            "bleu_tokenizer": "words",
        },
        "generate": {"mask": False},
        "el": {"denominator": "label", "batch_cut": 8},
        "train": {"empty_batch": "momentum", "batching": "slots"},
        "stop": {"rule": "and", "on_empty": True},
        "evaluation": {"dialogue_context": "start"},
    },
    "paper": {
        "loss": {"span": "prefix_suffix", "reduction": "sum", "kl": "kl", "kl_positions": "span"},
        "filter": {
            "rule": "and",
            "sticky": True,
            "at_start": False,
            "prompt": "prefix",
            "strip_special": True,
            "bleu_tokenizer": "words",
        },
        "eval": {"span": "prefix_suffix"},
        "el": {"start": 1, "denominator": "generation"},
        "train": {"empty_batch": "skip", "batching": "repack"},
        "stop": {"rule": "and", "on_empty": True},
    },
}


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 5e-6 as a number, and refuses a key given twice and nesting without end."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # PyYAML takes 10 s for 3,000 opened brackets, and four times that for twice as many.
        if self._depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"more than {DEEPEST} levels of lists and mappings")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = str(key_node.value)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
        if key_node.tag == "tag:yaml.org,2002:bool":  # YAML 1.1 reads the key `on` as true
            key_node.tag = "tag:yaml.org,2002:str"
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_repeats)
# A day stays text, as no key takes anything else.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text; UserError with line and column when it is not YAML."""
    try:
        value = yaml.load(text, Loader=_Loader)
        values = _count(value, {})
    except RecursionError as error:
        raise UserError(f"{where}: not valid YAML: a list or mapping that holds itself") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {error}") from error
    except Exception as error:  # what int(), datetime() and look-ups in PyYAML raise for 08, 2020-99-99 or !!bool x
        raise UserError(f"{where}: not valid YAML: a value cannot be read: {type(error).__name__}: {error}") from error
    if values > MOST_VALUES:
        raise UserError(f"{where}: aliases make {values:,} values of it; expected at most {MOST_VALUES:,}")
    return value


def _count(value: Any, known: dict[int, int]) -> int:
    """How many values a tree would hold were its aliases written out: a few lines of them can make billions."""
    if id(value) not in known:
        items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    return known[id(value)]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping with its `base:` files merged below it (deeply; lists are replaced)."""
    return _read_with_base(path, ())


def _named_by(seen: tuple[Path, ...]) -> str:
    """Of a base: which config names it."""
    return f"; it is the base of {seen[-1]}" if seen else ""


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    try:
        if path.resolve() in seen:
            raise UserError(f"{path}: 'base' leads back to a file already read: {' -> '.join(map(str, seen))}")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"config {path}: no such file{did_you_mean(str(path), known)}{_named_by(seen)}") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8 inside, or a name that no file can have
        raise UserError(f"config {path}: cannot be read: {error}{_named_by(seen)}") from error
    parsed = parse_yaml(text, f"config {path}")
    if not isinstance(parsed, dict):
        raise UserError(f"config {path}: expected a mapping of keys, found {type(parsed).__name__}")
    value: dict[str, Any] = parsed
    base = value.pop("base", None)
    if base is None:
        return value
    if not isinstance(base, str):
        raise UserError(f"config {path}: base: expected a file name, found {base!r}")
    below = _read_with_base(path.parent / os.path.expanduser(base), (*seen, path.resolve()))
    return merge(below, value)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`: mappings merge, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def apply_override(tree: dict[str, Any], override: str) -> dict[str, Any]:
    """`tree` with one dotted 'key=value' set (the value read as YAML; list items by number: models.0.workers=2)."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{typed_override(override)}: expected key=value, for example optim.lr=1e-5")
    value = parse_yaml(text, typed_override(override))
    changed: dict[str, Any] = _set(tree, key.split("."), value, override)
    return changed


def _set(node: Any, keys: Sequence[str], value: Any, override: str) -> Any:
    if not keys:
        return value
    head, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise UserError(f"{typed_override(override)}: expected an item number below {len(node)}, found '{head}'")
        items = list(node)
        items[int(head)] = _set(items[int(head)], rest, value, override)
        return items
    if node is not None and not isinstance(node, Mapping):
        raise UserError(f"{typed_override(override)}: '{head}' is below a plain value, not a section")
    tree = dict(node or {})
    tree[head] = _set(tree.get(head), rest, value, override)
    return tree


def load_config(path: Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read, merge, override, fill by fidelity preset and validate; UserError on anything wrong."""
    return resolve_config(_read_tree(path, overrides), f"config {path}", overrides)


def load_section(kind: type[_S], path: Path | None, overrides: Sequence[str], where: str) -> _S:
    """A config that is one section (no file: its defaults) with overrides; `where` begins messages without a file."""
    return _validate(kind, _read_tree(path, overrides), where if path is None else f"config {path}", overrides)


class _OwnTexts(Section):
    data: RecordsData


def load_data(tree: Any, where: str) -> RecordsData:
    """The section `data` of a user's own texts, of a config that is not whole yet."""
    return _validate(_OwnTexts, {"data": tree}, where, ()).data


def _read_tree(path: Path | None, overrides: Sequence[str]) -> dict[str, Any]:
    tree = {} if path is None else read_yaml(path)
    for override in overrides:
        tree = apply_override(tree, override)
    return tree


def resolve_config(tree: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Validate a plain tree after putting its fidelity preset and recipe below it. overrides: in it, for messages."""
    fidelity = tree.get("fidelity", "default")
    preset = FIDELITY_PRESETS.get(fidelity, {}) if isinstance(fidelity, str) else {}
    return _validate(SweepConfig, _with_recipe(merge(preset, tree)), where, overrides)


def _with_recipe(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree over what its recipe says."""
    recipe = recipe_of(tree)
    if recipe is None:
        return tree
    whole = merge(recipe.keys, tree)
    if isinstance(whole.get("methods"), list):
        whole["methods"] = [
            merge(for_method(recipe, item), item) if isinstance(item, Mapping) else item for item in whole["methods"]
        ]
    return whole


def _validate(kind: type[_S], tree: Mapping[str, Any], where: str, overrides: Sequence[str]) -> _S:
    try:
        # JSON mode keeps strictness (no "3" for 3) and still turns lists into tuples.
        text = json.dumps(tree, allow_nan=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: holds a value that is no number, text, list or mapping: {error}") from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error, kind, where, overrides)) from error
