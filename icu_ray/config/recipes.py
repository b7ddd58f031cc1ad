"""Recipes: what other papers and frameworks train with, as values of our keys, below those that a config writes itself.

    recipe = recipe_of(tree)                    # its keys go below those of the tree: file.py
    for each in recipe_values(config): each.key, each.value, each.changed

A recipe is no part of a trial's identity; the values that it sets are. What a recipe says of a method goes to each item
of `methods` with that name. Sources: OpenUnlearning's scripts (locuslab/open-unlearning, 2025-12), with transformers'
default of gradient clipping; the RMU of its WMDP scripts with the settings of Li et al. for Zephyr-7B; the SimNPO
paper's repository for TOFU's forget05.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from icu_ray.config.sweep import SweepConfig


@dataclass(frozen=True)
class Recipe:
    """keys: a tree as in a config. methods: what an item of `methods` with this name is given. summary: a sentence."""

    summary: str
    keys: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class RecipeValue:
    """A value that a recipe sets. key: 'optim.lr', 'methods.npo.settings.retain'. changed: what a config has in its
    place, by key, such as {'models.a.lr': 0.001}; empty where it has the recipe's value."""

    key: str
    value: Any
    changed: Mapping[str, Any]


_FIXED_LENGTH: Mapping[str, Any] = {
    "pairs": {"by": "random", "resample": "epoch"},
    "train": {"anchor": "forget", "batch_size": 32},
    "filter": {"rule": "never"},
    "stop": {"rule": "epochs", "max_epochs": 10},
}
_ADAMW: Mapping[str, Any] = {"betas": [0.9, 0.999], "eps": 1e-8, "clip": 1.0}
_TOFU: Mapping[str, Any] = {
    **_FIXED_LENGTH,
    "optim": {**_ADAMW, "lr": 1e-5, "weight_decay": 0.01, "schedule": "linear", "warmup_epochs": 1.0},
}
_NPO = {"settings": {"retain": "nll", "beta_npo": 0.1}}

RECIPES: Mapping[str, Recipe] = {
    "icu": Recipe(
        "The ICU paper's, which are the defaults.",
        {
            "pairs": {"by": "nearest"},
            "optim": {
                "lr": 5e-6,
                "betas": [0.9, 0.98],
                "eps": 1e-8,
                "weight_decay": 0.0,
                "schedule": "constant",
                "warmup_epochs": 0.0,
            },
            "train": {"anchor": "forget", "batch_size": 8},
            "filter": {"rule": "or"},
            "stop": {"rule": "and", "max_epochs": 50},
        },
    ),
    "open_unlearning_tofu": Recipe(
        "OpenUnlearning's on TOFU: 10 epochs, linear schedule after an epoch of warm-up.",
        _TOFU,
        {"npo": _NPO, "satimp": {"settings": {"preset": "ou_yaml"}}},
    ),
    "open_unlearning_muse": Recipe(
        "OpenUnlearning's on MUSE: 10 epochs at a constant learning rate, without weight decay.",
        {
            **_FIXED_LENGTH,
            "optim": {**_ADAMW, "lr": 1e-5, "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0},
        },
        {
            "npo": _NPO,
            "satimp": {"settings": {"preset": "ou_yaml"}},
            "task_vector": {"settings": {"scale": 5.0, "epochs": 10, "lr": 1e-5, "schedule": "cosine"}},
        },
    ),
    "rmu_wmdp": Recipe(
        "RMU on WMDP: 80 steps of 16 rows at a constant learning rate; three layers' down_proj are trained.",
        {
            **_FIXED_LENGTH,
            "train": {"anchor": "forget", "batch_size": 16},
            "stop": {"rule": "epochs", "max_epochs": 80, "max_steps": 80},
            "optim": {**_ADAMW, "lr": 5e-5, "weight_decay": 0.0, "schedule": "constant", "warmup_epochs": 0.0},
        },
        {
            "rmu": {
                "alpha": 1200.0,
                "settings": {
                    "layer": 7,
                    "steering": 6.5,
                    "train_layers": "5,6,7",
                    "train_parameters": "down_proj",
                },
            }
        },
    ),
    "simnpo_paper": Recipe(
        "SimNPO's paper on TOFU: TOFU's training with beta 2.5 and a weight of 0.1375 of the forget loss.",
        _TOFU,
        {"simnpo": {"alpha": 1.0, "settings": {"beta_simnpo": 2.5, "delta": 0.0, "gamma": 0.1375}}},
    ),
}


def recipe_of(tree: Mapping[str, Any]) -> Recipe | None:
    """The one that a config's plain tree names; None for none, or for a name that validation will refuse."""
    name = tree.get("recipe")
    return RECIPES.get(name) if isinstance(name, str) else None


def for_method(recipe: Recipe, item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a recipe gives to an item of `methods` as a config writes it, below what stands there."""
    name = item.get("name")
    given = dict(recipe.methods.get(name, {})) if isinstance(name, str) else {}
    if item.get("cells") is not None:
        given.pop("alpha", None)  # which stands in them
    return given


def flat(recipe: Recipe) -> dict[str, Any]:
    """Its values by key: 'optim.lr', 'methods.npo.settings.retain'."""
    return dict(by_key({**recipe.keys, "methods": recipe.methods} if recipe.methods else recipe.keys))


def recipe_values(config: SweepConfig) -> tuple[RecipeValue, ...]:
    """What the config's recipe sets, and what the config has instead; nothing without a recipe.

    What a recipe says of methods that the config does not run is left out.
    """
    if config.recipe is None:
        return ()
    tree = config.model_dump(mode="json")
    found = []
    for key, value in flat(RECIPES[config.recipe]).items():
        first, *rest = key.split(".")
        if first == "methods":
            own = [(f"methods.{n}", item) for n, item in enumerate(tree["methods"]) if item["name"] == rest[0]]
            if not own:
                continue
            rest = rest[1:]
        else:
            own = [(first, tree[first])]
        has = {".".join([place, *rest]): _at(item, rest) for place, item in own}
        if key in _OF_MODELS:
            models = {f"models.{n}.{rest[-1]}": each.get(rest[-1]) for n, each in enumerate(tree["models"])}
            has |= {place: each for place, each in models.items() if each is not None}
        if key in _OF_METHODS:
            name = _OF_METHODS[key]
            told = {f"methods.{n}.{name}": _at(each, name.split(".")) for n, each in enumerate(tree["methods"])}
            has |= {place: each for place, each in told.items() if each is not None}
        found.append(RecipeValue(key, value, {place: each for place, each in has.items() if each != value}))
    return tuple(found)


_OF_MODELS = ("optim.lr", "train.batch_size", "stop.max_epochs")
"""Which a model of the grid may have of its own."""
_OF_METHODS = {
    "optim.lr": "lr",
    "stop.rule": "stop.rule",
    "stop.max_epochs": "stop.max_epochs",
    "filter.rule": "filter",
}
"""Which a method may have of its own, and under which key."""


def _at(item: Any, keys: list[str]) -> Any:
    for key in keys:
        item = item.get(key) if isinstance(item, Mapping) else None
    return item


def by_key(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested keys as a config's overrides write them: 'optim.lr'."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from by_key(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
