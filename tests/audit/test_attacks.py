"""What all attacks promise.

Needs: nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import subprocess
import sys

import pytest

from icu_ray.audit import attacks
from icu_ray.audit.attack import Attack
from icu_ray.config.auditing import FALLING, WORDLESS

FILES = [each.name for each in pkgutil.iter_modules(attacks.__path__)]


def attack_of(file: str) -> type[Attack]:
    module = importlib.import_module(f"{attacks.__name__}.{file}")
    (found,) = (each for each in vars(module).values() if isinstance(each, type) and hasattr(each, "brings_back")
                and each.__module__ == module.__name__)  # fmt: skip
    return found


@pytest.mark.parametrize("file", FILES)
def test_an_attack_is_a_frozen_value_with_defaults(file: str) -> None:
    attack = attack_of(file)()
    assert attack.__dataclass_params__.frozen and attack == type(attack)()  # type: ignore[attr-defined]
    assert attack.name and attack.unit and attack.version >= 1
    assert {type(attack.changes_weights), type(attack.brings_back)} == {bool}
    assert not {each.name for each in dataclasses.fields(attack)} & {"name", "unit", "version"}  # type: ignore[arg-type]
    assert hash(attack) == hash(type(attack)())


def test_names_are_their_own() -> None:
    names = [attack_of(file).name for file in FILES]
    assert len(set(names)) == len(names) >= 6


def test_those_that_have_no_model_speak_are_listed() -> None:
    assert {attack_of(file).name for file in FILES if not attack_of(file).brings_back} == WORDLESS


def test_those_whose_budget_falls_are_attacks() -> None:
    assert {attack_of(file).name for file in FILES if attack_of(file).unit == "bits"} == FALLING


def test_a_plan_may_import_them() -> None:
    """Without the seconds that torch takes."""
    imports = "".join(f"import {attacks.__name__}.{file}; " for file in FILES)
    told = f"import sys; {imports}print([each for each in ('torch', 'ray') if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
