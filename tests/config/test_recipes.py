"""Recipes: what each sets, what a config has in its place, and how both are told.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from icu_ray import methods
from icu_ray.cli.main import main
from icu_ray.config import SweepConfig
from icu_ray.config.file import load_config, merge, resolve_config
from icu_ray.config.recipes import RECIPES, flat, recipe_values
from icu_ray.errors import UserError
from icu_ray.report.terminal.plan_table import forgotten_when, plan_json, recipe_said
from tests.plan.test_plan import SMALL, ids, plan

FIELD: dict[str, dict[str, Any]] = {
    "open_unlearning_tofu": {
        "optim.lr": 1e-5,
        "stop.max_epochs": 10,
        "train.batch_size": 32,
        "optim.schedule": "linear",
        "optim.warmup_epochs": 1.0,
        "optim.weight_decay": 0.01,
    },
    "open_unlearning_muse": {
        "optim.lr": 1e-5,
        "stop.max_epochs": 10,
        "train.batch_size": 32,
        "optim.schedule": "constant",
        "optim.warmup_epochs": 0.0,
        "optim.weight_decay": 0.0,
    },
    "rmu_wmdp": {
        "optim.lr": 5e-5,
        "stop.max_steps": 80,
        "train.batch_size": 16,
        "optim.schedule": "constant",
        "optim.warmup_epochs": 0.0,
        "optim.weight_decay": 0.0,
    },
}
"""As the published scripts have them, written down once more."""


def told(**changes: Any) -> SweepConfig:
    return resolve_config(merge(SMALL, changes), "t")


def at(config: SweepConfig, key: str) -> Any:
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_config_has_what_its_recipe_sets(name: str) -> None:
    config = told(recipe=name)
    for key, value in {**flat(RECIPES[name]), **FIELD.get(name, {})}.items():
        if not key.startswith("methods."):
            assert at(config, key) == value, key
    assert all(not each.changed for each in recipe_values(config))
    # A trial follows the values, and does not know where they are from.
    assert ids(plan({"recipe": name})) == ids(plan(dict(RECIPES[name].keys)))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "icu"])
def test_all_but_icus_train_a_fixed_time_on_all_targets_beside_random_pairs(name: str) -> None:
    config = told(recipe=name)
    assert (config.stop.rule, config.filter.rule) == ("epochs", "never")
    assert (config.pairs.by, config.pairs.resample, config.train.anchor) == ("random", "epoch", "forget")
    assert config.optim.betas == (0.9, 0.999) and config.optim.clip == 1.0


def test_icus_are_the_defaults() -> None:
    assert told(recipe="icu").model_copy(update={"recipe": None}) == told()
    assert ids(plan({"recipe": "icu"})) == ids(plan())
    assert told(recipe="icu", fidelity="paper").filter.rule == "and"


def test_methods_get_their_settings_unless_they_have_them() -> None:
    items = [
        {"name": "npo"},
        {"name": "npo", "label": "own", "settings": {"retain": "kl"}},
        {"name": "satimp"},
        {"name": "kumpr"},
    ]
    npo, own, satimp, kumpr = told(recipe="open_unlearning_tofu", methods=items).methods
    assert npo.settings == {"retain": "nll", "beta_npo": 0.1}
    assert own.settings == {"retain": "kl", "beta_npo": 0.1}
    assert methods.get("satimp", settings=satimp.settings).settings["gamma"] == 0.1
    assert methods.cells(satimp) == ((1.0, 1.0),)
    assert kumpr.settings == {}
    simnpo = told(recipe="simnpo_paper", methods=[{"name": "simnpo"}]).methods[0]
    assert (simnpo.alpha, simnpo.settings["beta_simnpo"], simnpo.settings["gamma"]) == (1.0, 2.5, 0.1375)
    rmu, cells = told(recipe="rmu_wmdp", methods=[{"name": "rmu"}, {"name": "rmu", "cells": [[5, 0]]}]).methods
    assert rmu.alpha == 1200 and rmu.settings["train_layers"] == "5,6,7"
    assert cells.cells == ((5.0, 0.0),) and cells.settings == rmu.settings


def test_every_method_takes_what_a_recipe_gives_it() -> None:
    for recipe in RECIPES.values():
        for name, given in recipe.methods.items():
            methods.get(name, alpha=given.get("alpha"), settings=given.get("settings"))


CHANGED: dict[str, Any] = {
    "recipe": "open_unlearning_muse",
    "optim": {"lr": 1e-3},
    "models": [{"name": "a", "standin": {"size": "small"}, "max_epochs": 4}],
    "methods": [
        {"name": "npo", "settings": {"beta_npo": 0.5}},
        {"name": "npo", "label": "usual"},
        {"name": "wga", "stop": {"max_epochs": 5}},
    ],
}


def test_what_a_config_changes_is_told() -> None:
    found = {each.key: dict(each.changed) for each in recipe_values(told(**CHANGED))}
    assert {key: value for key, value in found.items() if value} == {
        "optim.lr": {"optim.lr": 1e-3},
        "stop.max_epochs": {"models.0.max_epochs": 4, "methods.2.stop.max_epochs": 5},
        "methods.npo.settings.beta_npo": {"methods.0.settings.beta_npo": 0.5},
    }
    assert not any("task_vector" in key for key in found)  # which it does not run
    (said,) = recipe_said(told(**CHANGED))
    assert said.startswith("Recipe 'open_unlearning_muse' sets pairs.by=random")
    assert "optim.lr=0.001 in place of 1e-05" in said and "models.0.max_epochs=4 in place of 10" in said
    assert recipe_said(told()) == []
    said = forgotten_when(told(**CHANGED))
    assert said.startswith("MA < 59.94 % and EL10 < 4.99 %, judged after the last epoch")
    assert said.endswith("; after epochs of their own: wga after 5") and "rules of their own" not in said
    values = json.loads(plan_json(plan(CHANGED)))["recipe"]
    assert values["name"] == "open_unlearning_muse" and {"key", "value", "changed"} == set(values["values"][0])


def test_a_resolved_config_is_the_same_again() -> None:
    config = told(**CHANGED)
    assert resolve_config(config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": "open_unlearning_tofo"}, "recipe: .*did you mean 'open_unlearning_tofu'"),
        ({"recipe": 3}, "recipe: expected"),
        ({"recipe": "rmu_wmdp", "fidelity": "paper"}, "recipe: rmu_wmdp is not ICU's way of training"),
        ({"optim": {"schedule": "linaer"}}, "did you mean 'linear'"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        told(**changes)


def test_a_recipe_may_be_typed(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**SMALL, "methods": [{"name": "npo"}]}))
    config = load_config(tmp_path / "mine.yaml", ["recipe=open_unlearning_tofu", "optim.lr=3e-5"])
    assert (config.optim.lr, config.optim.schedule, config.methods[0].settings["retain"]) == (3e-5, "linear", "nll")


def test_explain_tells_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "recipe"]) == 0
    printed = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert f"{name}: {recipe.summary[:30]}" in printed
    assert "methods.rmu.settings.steering" in printed
    assert main(["explain", "optim.weight_decay"]) == 0
    assert "0.01 with open_unlearning_tofu, simnpo_paper" in capsys.readouterr().out
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **CHANGED}))
    assert main(["explain", "--config", str(file)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["optim.lr"].split() == ["optim.lr", "1e-05", "optim.lr:", "0.001"]
    assert lines["optim.schedule"].split() == ["optim.schedule", "constant"]
    assert main(["explain", "recipe", "--config", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "open_unlearning_muse"
    assert main(["explain", "optim.lr", "--config", str(file)]) == 2
    file.write_text(yaml.safe_dump(SMALL))
    assert main(["explain", "--config", str(file)]) == 0
    assert "names no recipe" in capsys.readouterr().out
