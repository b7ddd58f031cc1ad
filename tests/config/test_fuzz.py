"""Configs as nobody should write them: the loader gives a value or says what is wrong, in the file's own words.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config import JudgeConfig, SweepConfig
from icu_ray.config.file import load_config, load_section
from icu_ray.plan.budget import load_prices
from tests.support.fuzz_case import (
    JUNK,
    NUMBERS,
    TEXTS,
    command,
    damaged,
    damaged_bytes,
    fuzz,
    to_yaml,
    value_or_refusal,
)

ROOT = Path(__file__).parents[2]
SHIPPED = {path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "tune_configs").glob("*.yaml"))}
SMALL: dict[str, Any] = {
    "name": "t",
    "data": {"source": "synthetic", "records": 12, "sample_size": 4, "heldout": 4},
    "samples": [0],
    "columns": {"length": 48, "prefix_start": 16, "suffix_start": 32},
    "models": [{"name": "small", "standin": {"size": "small"}}],
    "methods": [{"name": "icu", "cells": [[0.5, 1.0]]}, {"name": "npo", "settings": {"beta_npo": 0.1}}],
    "optim": {"lr": 2.0e-4},
    "stop": {"max_epochs": 3},
    "pairs": {"encoder": "bundled"},
    "filter": {"encoder": "bundled", "encoder_layer": 6},
    "resources": {"max_hours": 3.0},
}
KEYS = [
    "name",
    "models",
    "base",
    "optim.lr",
    "models.0",
    "models.0.name",
    "methods.0.cells",
    "data",
    "data.folder",
    "x",
]
YAML = st.one_of(
    st.text(max_size=60),
    st.lists(
        st.sampled_from([*KEYS, *"[]{}:,-?!&*|>'\"#%@`\n \t", "&a", "*a", "!!int", "!!timestamp", "2020-99-99"])
    ).map("".join),
    st.dictionaries(st.sampled_from(KEYS) | TEXTS, JUNK, max_size=4).map(lambda tree: to_yaml(tree).decode()),
    st.sampled_from(
        ["!!float x", "!!int ''", "!!bool x", "!!timestamp x", "a: " + "9" * 5000, "[" * 200, "? [a]\n: b"]
    ),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "c.yaml"


@fuzz(200)
@given(content=YAML.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40))
def test_any_text(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for load in (lambda: load_config(path), lambda: load_prices(path)):
        said = value_or_refusal(load)
        assert said is not None and str(path.parent) in said
    value_or_refusal(lambda: load_section(JudgeConfig, path, (), "judge"))


@fuzz(150)
@given(data=st.data(), name=st.sampled_from(sorted(SHIPPED)))
def test_shipped_configs_damaged(path: Path, data: st.DataObject, name: str) -> None:
    tree = data.draw(damaged(SHIPPED[name]))
    text = to_yaml(tree)
    path.write_bytes(data.draw(damaged_bytes(text)) if data.draw(st.integers(0, 3)) == 0 else text)
    for shipped in SHIPPED:  # what 'base:' names
        link = path.parent / shipped
        if not link.exists():
            link.symlink_to(ROOT / "tune_configs" / shipped)
    said = value_or_refusal(lambda: load_config(path))
    assert said is None or str(path.parent) in said


OVERRIDES = st.tuples(
    st.sampled_from([*KEYS, "samples", "samples.0", "stop.ma", "models.0.standin", "models.9.x", "data.source", "seed"])
    | TEXTS,
    st.sampled_from(["=", "", "=="]),
    YAML | JUNK.map(lambda value: json.dumps(value)[:200]),
).map("".join)


@fuzz(150)
@given(overrides=st.lists(OVERRIDES, min_size=1, max_size=3))
def test_any_override(path: Path, overrides: list[str]) -> None:
    path.write_bytes(to_yaml(SMALL))
    value_or_refusal(lambda: load_config(path, overrides))


PLACES = (
    ("storage", TEXTS),
    ("seed", NUMBERS),
    ("samples", st.lists(NUMBERS, min_size=1, max_size=2)),
    ("models", st.lists(st.fixed_dictionaries({"name": st.just("m"), "source": TEXTS}), min_size=1, max_size=1)),
    ("pairs", st.fixed_dictionaries({"encoder": TEXTS})),
    ("filter", st.fixed_dictionaries({"encoder": TEXTS})),
    ("resources", st.fixed_dictionaries({"prices": TEXTS})),
    ("tracking", st.fixed_dictionaries({"uri": TEXTS})),
    ("data", st.fixed_dictionaries({"source": st.just("extraction"), "folder": TEXTS, "tokens": TEXTS})),
    ("data", st.fixed_dictionaries({"source": st.just("records"), "forget": TEXTS, "pool": TEXTS})),
    (
        "methods",
        st.lists(st.fixed_dictionaries({"name": st.just("npo"), "settings": st.dictionaries(TEXTS, JUNK)}), max_size=1),
    ),
)
"""Keys of which any text or number gets past the schema, to whoever opens a file or counts with it."""


@fuzz(80)
@given(data=st.data())
def test_plan_of_a_damaged_config(path: Path, data: st.DataObject) -> None:
    """Through the command line to the end of a plan: what the schema lets through must be planned or refused too."""
    key, values = data.draw(st.sampled_from([("", JUNK), *PLACES]))
    tree = {**SMALL, key: data.draw(values)} if key else data.draw(damaged(SMALL, most=2))
    path.write_bytes(to_yaml(tree))
    _, _, errors = command("plan", str(path), *(["--json"] if data.draw(st.booleans()) else []))
    assert len(errors.splitlines()) < 40


@fuzz(60)
@given(prices=damaged({"currency": "EUR", "gpu_hour": 2.5, "spot_gpu_hour": 1.0, "cpu_hour": 0.05}))
def test_damaged_prices(path: Path, prices: dict[str, Any]) -> None:
    path.write_bytes(to_yaml(prices))
    value_or_refusal(lambda: load_prices(path))


def test_values_of_the_schema_are_reached() -> None:
    """The tests above are worth something only if their undamaged config is one."""
    assert SweepConfig.model_validate_json(json.dumps(SMALL)).name == "t"
