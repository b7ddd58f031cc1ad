"""Where a reader begins: each package names its files, and each test file says what it needs.

Needs: nothing.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LISTS = {"icu_ray": "docs/architecture.md", "icu_ray/cli": "icu_ray/cli/main.py"}
"""Packages whose parts are named elsewhere: the packages themselves, and the sub-commands."""
PACKAGES = sorted(str(path.parent.relative_to(CHECKOUT)) for path in (CHECKOUT / "icu_ray").rglob("__init__.py"))


def said(path: Path) -> str:
    """A file's docstring."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def parts(folder: Path) -> list[str]:
    """The modules and packages of a package."""
    modules = [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
    return sorted([*modules, *(path.parent.name for path in folder.glob("*/__init__.py"))])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_in_which_order_its_files_are_read(package: str) -> None:
    folder = CHECKOUT / package
    docstring = said(folder / "__init__.py")
    unnamed = [part for part in parts(folder) if not re.search(rf"\b{part}(\.py\b|/)", docstring)]
    if package in LISTS:
        text = (CHECKOUT / LISTS[package]).read_text(encoding="utf-8")
        unnamed = [part for part in unnamed if part != "__main__" and not re.search(rf"\b{part}\b", text)]
    elif package == "icu_ray/methods":  # one file a method, called as the method is
        from icu_ray.methods import BUILT_IN

        unnamed = [part for part in unnamed if part not in BUILT_IN]
    assert unnamed == [], f"{package}/__init__.py: its docstring does not name them"


def test_every_test_file_says_what_it_needs() -> None:
    files = sorted((CHECKOUT / "tests").rglob("test_*.py"))
    silent = [str(path.relative_to(CHECKOUT)) for path in files if not re.search(r"(?m)^Needs: .+\.$", said(path))]
    assert len(files) > 70 and silent == []
