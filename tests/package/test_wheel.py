"""The wheel, built and installed away from the checkout: everything that the code reads is in it.

Needs: pip.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from icu_ray.version import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_CODE = (".yaml", ".html", ".jinja", ".typed", ".json")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Built from a copy: setuptools leaves a build folder in what it builds, and would take up an old one.
    source = folder / "source"
    source.mkdir()
    for name in ("icu_ray", "tune_configs"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *options, str(source)], check=True)
    [built] = folder.glob("icu_ray-*.whl")
    return built


def test_it_carries_every_file_that_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    there = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "icu_ray").rglob("*")
        if path.suffix in NOT_CODE and "__pycache__" not in path.parts
    }
    assert there
    assert there <= names
    configs = {f"icu_ray/tune_configs/{path.name}" for path in (CHECKOUT / "tune_configs").glob("*.yaml")}
    assert configs <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "tune_configs"))]


def test_installed_elsewhere_it_knows_its_configs_and_version(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("icu_ray.cli", "--version").split() == ["icu-ray", __version__]
    plan = json.loads(said("icu_ray.sweep", "--dry-run", "--json"))
    assert plan["name"] == "quickstart"
    assert len(plan["trials"]) == 12
    where = "import icu_ray.config.shipped as p; print(p.__file__, sorted(p.shipped_configs()))"
    done = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    file, configs = done.stdout.split(maxsplit=1)
    assert Path(file).is_relative_to(target), file
    assert len(configs.split(",")) == len(list((CHECKOUT / "tune_configs").glob("*.yaml")))


def test_the_environment_has_no_conflicts() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert importlib.metadata.version("icu-ray") == __version__
