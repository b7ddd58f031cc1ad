"""The version, in one place; and which code made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path

__version__ = "0.1.0"


def code_version() -> dict[str, str | bool]:
    """Version, git commit and whether the tree had uncommitted changes ('unknown' outside a checkout)."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # Only a repository that holds this package counts: an installed copy may lie inside somebody else's.
    tracked = git("ls-files", "--error-unmatch", "icu_ray/version.py")
    commit = git("rev-parse", "HEAD") if tracked is not None else None
    if commit is None:
        return {"version": __version__, "commit": "unknown", "dirty": False}
    return {"version": __version__, "commit": commit, "dirty": bool(git("status", "--porcelain", "-uno"))}
