"""Ray's token authentication: which mode and token this process uses. Importing this module does not import Ray.

authenticate()                  # before `import ray`, in a process that joins a cluster
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path


def authentication(local: bool) -> dict[str, str]:
    """Environment variables that choose it: always set, never left to what happens to lie in ~/.ray."""
    if local and "ray" in sys.modules:
        # Ray reads its mode once, when it is imported; a later word would only divide its processes.
        return {} if "RAY_AUTH_MODE" in os.environ else {"RAY_AUTH_MODE": "disabled"}
    if local:
        # One process can know one token in its life, so one that is there already is taken.
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)}
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return {"RAY_AUTH_MODE": "token" if given or Path("~/.ray/auth_token").expanduser().is_file() else "disabled"}


def authenticate() -> None:
    """Let this process show the cluster the token that its environment holds. Before Ray is imported, or too late."""
    os.environ.update(authentication(local=False))
