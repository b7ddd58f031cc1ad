"""The layers of packages: what `make lint` refuses, and the picture of it.

Imports are planted into a copy of icu_ray/, which import-linter then reads with the project's own contracts.

Needs: nothing.
"""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


PLANTED = [
    # (in which file, what, what the linter says)
    ("plan/grid.py", "import icu_ray.sweep.run", "icu_ray.plan.grid -> icu_ray.sweep.run"),
    (
        "storage/files.py",
        "def planted() -> None:\n    from icu_ray.report.collect import collect",
        "icu_ray.storage.files -> icu_ray.report.collect",
    ),
    (
        "data/tokens.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from icu_ray.methods.base import Method",
        "icu_ray.data.tokens -> icu_ray.methods.base",
    ),
    ("models/hub.py", "from icu_ray.metrics.probe import probe", "icu_ray.models.hub -> icu_ray.metrics.probe"),
    ("config/section.py", "from icu_ray.config.sweep import SweepConfig", "No cycles are allowed in icu_ray.config"),
    ("report/collect.py", "def planted() -> None:\n    import ray", "icu_ray.report.collect -> ray"),
    ("training/loop.py", "from ray import tune", "icu_ray.training.loop -> ray"),
    ("trial/worker.py", "def planted() -> None:\n    import deepspeed", "icu_ray.trial.worker -> deepspeed"),
    ("sweep/run.py", "def planted() -> None:\n    import mlflow.tracking", "icu_ray.sweep.run -> mlflow"),
    ("plan/trial.py", "def planted() -> None:\n    import torch", "icu_ray.plan.trial -> torch"),
    ("methods/icu.py", "from pathlib import Path", "icu_ray.methods.icu -> pathlib"),
]


def linted(folder: Path) -> tuple[int, str]:
    """lint-imports in a folder: its exit code and what it says."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    # -P: the linter itself puts the folder first, and reads the package there without running it.
    command = [sys.executable, "-P", "-c", code, "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_layers_hold_and_what_is_planted_is_refused(tmp_path: Path) -> None:
    unread = shutil.ignore_patterns("__pycache__", "*.yaml", "*.html", "*.jinja")
    shutil.copytree(CHECKOUT / "icu_ray", tmp_path / "icu_ray", ignore=unread)
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    code, said = linted(tmp_path)
    assert code == 0, said

    unplaced = tmp_path / "icu_ray" / "unplaced"  # a package that no layer names
    unplaced.mkdir()
    (unplaced / "__init__.py").touch()
    code, said = linted(tmp_path)
    assert code == 1 and "unplaced" in said, said
    shutil.rmtree(unplaced)

    for name, line, _ in PLANTED:
        path = tmp_path / "icu_ray" / name
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{line}\n", encoding="utf-8")
    code, said = linted(tmp_path)
    assert code == 1
    assert [refused for _, _, refused in PLANTED if refused not in said] == [], said


def test_the_picture_is_what_the_contracts_say() -> None:
    made = runpy.run_path(str(CHECKOUT / "docs" / "architecture.py"))
    committed = made["PICTURE"].read_text(encoding="utf-8")
    assert committed == made["picture"](), "docs/images/architecture.svg is old: run python docs/architecture.py"
