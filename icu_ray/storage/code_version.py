"""Which code made a result."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from icu_ray import __version__

_PACKAGE = Path(__file__).resolve().parents[1]
COMMIT_VARIABLE = "ICU_RAY_COMMIT"
"""Says the commit ('+' after it: with local changes) where the code travelled without its repository."""


def code_version() -> dict[str, str | bool]:
    """Version, git commit and whether the tree had uncommitted changes.

    Outside a checkout the commit is what COMMIT_VARIABLE says, else 'files-' and a hash of the package's own files.
    """
    root = _PACKAGE.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # Only a repository that holds this package counts: an installed copy may lie inside somebody else's.
    tracked = git("ls-files", "--error-unmatch", "icu_ray/__init__.py")
    commit = git("rev-parse", "HEAD") if tracked is not None else None
    if commit is None:
        told = os.environ.get(COMMIT_VARIABLE, "")
        return {"version": __version__, "commit": told.rstrip("+") or _files_hash(), "dirty": told.endswith("+")}
    return {"version": __version__, "commit": commit, "dirty": bool(git("status", "--porcelain", "-uno"))}


def _files_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes())
    return f"files-{digest.hexdigest()[:16]}"
