"""Which code made a result: a checkout's commit, what a job was told, or the files themselves.

Needs: git.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import icu_ray
from icu_ray import __version__

PACKAGE = Path(icu_ray.__file__).parent


def said(folder: Path, **variables: str) -> dict[str, Any]:
    """code_version() of the copy in `folder`."""
    code = "import json; from icu_ray.storage.code_version import code_version; print(json.dumps(code_version()))"
    mine = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ICU_RAY_COMMIT")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=mine | variables, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_code_that_made_a_result(tmp_path: Path) -> None:
    (tmp_path / "icu_ray" / "storage").mkdir(parents=True)
    for name in ("__init__.py", "storage/__init__.py", "storage/code_version.py"):
        shutil.copy(PACKAGE / name, tmp_path / "icu_ray" / name)
    bare = said(tmp_path)
    assert bare["commit"].startswith("files-") and not bare["dirty"]
    assert bare["version"] == __version__

    # A job whose files came without their repository is told; a '+' says that they were no commit's.
    assert said(tmp_path, ICU_RAY_COMMIT="abc") == {**bare, "commit": "abc"}
    assert said(tmp_path, ICU_RAY_COMMIT="abc+") == {**bare, "commit": "abc", "dirty": True}

    # The hash is of the files, wherever they lie.
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "icu_ray", other / "icu_ray")
    assert said(other) == bare
    (other / "icu_ray" / "more.py").write_text("")
    assert said(other)["commit"] not in (bare["commit"], "")

    # Somebody else's repository around an installed copy says nothing about it; its own one knows.
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "theirs")
    assert said(tmp_path) == bare
    git(tmp_path, "add", "icu_ray")
    git(tmp_path, "commit", "--quiet", "-m", "ours")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert said(tmp_path, ICU_RAY_COMMIT="abc") == {**bare, "commit": commit}
    (tmp_path / "icu_ray" / "__init__.py").write_text(f"{(PACKAGE / '__init__.py').read_text()}# changed\n")
    assert said(tmp_path) == {**bare, "commit": commit, "dirty": True}
