"""Nested settings as one level of dotted keys, by which they are compared and shown.

flatten({"optim": {"lr": 1e-5}})      # {"optim.lr": 1e-05}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists of named things likewise, other lists count as values."""
    if isinstance(tree, list | tuple) and tree and all(isinstance(item, Mapping) and "name" in item for item in tree):
        named = {str(item.get("label") or item["name"]): item for item in tree}
        tree = named if len(named) == len(tree) else tree
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {
        key: value
        for name, item in tree.items()
        for key, value in flatten(item, f"{prefix}.{name}".lstrip(".")).items()
    }
