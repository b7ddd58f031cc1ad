"""What of the working folder travels with a job, known before it is sent: how much, what stays here, no keys.

    upload = what_travels(Path())       # UserError: a file of keys or tokens is among it, or it is too large
    print(upload)                       # 231 files, 1.9 MB; left out: .git/, data/, runs/

Ray packs the folder itself and says nothing of what it takes. So the folder is walked here by Ray's own rules:
.gitignore and .rayignore of each folder, and what Ray leaves out by default.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from icu_ray.errors import UserError, is_secret_name, without_secrets

SHOWN_PATHS = 8
"""So many of the paths that are left out are named."""
_SECRET_LENGTH = 8
"""Shorter values of this shell's secrets are not looked for elsewhere, nor such as are a word."""
_READ_BYTES = 1 << 20
"""No file of keys is longer."""
_KEY_FILE = re.compile(
    r"(?i)\.env(\.(?!example$|sample$|template$|dist$).*)?|[._]netrc|\.pgpass|\.pypirc|\.git-credentials|\.htpasswd"
    r"|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|.*\.(ppk|p12|pfx|jks|keystore|kdbx)|client_secret.*\.json"
    r"|(.*[-_.])?(token|secrets?|passwords?|passwd|credentials?|(api|access|private|secret)[-_]?key|service[-_]?account)"
    r"(\.(txt|json|ya?ml|toml|ini|cfg|conf|key))?"
)
_Rule: TypeAlias = Callable[[Path], bool]


@dataclass(frozen=True)
class Upload:
    """files, left_out: below the folder; of a folder that is left out whole, only itself. size: of the files, bytes."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    size: int

    def __str__(self) -> str:
        said = f"{len(self.files)} files, {megabytes(self.size)}"
        return f"{said}; left out: {_together(self.left_out)}" if self.left_out else f"{said}; nothing is left out"


def what_travels(root: Path) -> Upload:
    """What Ray will pack of the folder; UserError where that holds keys or tokens, or is more than a cluster takes."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _get_excludes

    root = root.resolve()
    files, left_out = _walk(root, [_get_excludes(root, get_runtime_env_default_excludes())])
    sizes = {path.relative_to(root): path.stat().st_size for path in files}
    upload = Upload(tuple(sizes), tuple(_named(path, root) for path in left_out if path != root), sum(sizes.values()))
    limit = min(GCS_STORAGE_MAX_SIZE, DASHBOARD_CLIENT_MAX_SIZE)  # of what a head stores, and of what it is sent
    if upload.size >= limit:
        parts: Counter[str] = Counter()
        for path, size in sizes.items():
            parts[path.parts[0] + ("/" if len(path.parts) > 1 else "")] += size
        largest, most = parts.most_common(1)[0]
        raise UserError(
            f"--working-dir {root}: holds {len(files)} files, {megabytes(upload.size)}, expected less than "
            f"{megabytes(limit)}, which is what Ray takes; the largest part is {largest} ({megabytes(most)}); name in "
            ".rayignore what the job does not need"
        )
    known = [value.encode() for value in known_secrets()]
    keys = [str(path) for path in upload.files if _holds_keys(root / path, known)]
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise UserError(
            f"--working-dir {root}: {', '.join(keys[:3])}{more}: this looks like keys, tokens or passwords, and all "
            "who may use the cluster could read what is sent; move it elsewhere, or name it in .rayignore"
        )
    return upload


def known_secrets() -> list[str]:
    """Values of this shell's variables whose names say that they are secret."""
    held = {value for name, value in os.environ.items() if is_secret_name(name)}
    return [value for value in held if len(value) >= _SECRET_LENGTH and not value.isalpha()]


def megabytes(size: float) -> str:
    """'1.9 MB', '340 kB'."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} kB"


def _walk(path: Path, rules: Sequence[_Rule]) -> tuple[list[Path], list[Path]]:
    """Files below that travel, and paths that stay."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    if path.is_dir():
        gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
        rules = [*rules, *get_excludes_from_ignore_files(path, include_gitignore=gitignore)]
    if any(rule(path) for rule in rules):
        return [], [path]
    if not path.is_dir():
        return ([path] if path.is_file() else []), []
    files: list[Path] = []
    left_out: list[Path] = []
    for below in sorted(path.iterdir()):
        found, not_sent = _walk(below, rules)
        files += found
        left_out += not_sent
    # A rule such as 'runs/' goes for each thing in the folder, not for the folder.
    return files, [path] if left_out and not files else left_out


def _named(path: Path, root: Path) -> str:
    return f"{path.relative_to(root)}{'/' if path.is_dir() else ''}"


def _together(paths: Iterable[str]) -> str:
    """A few names for many paths: the topmost first, those of one name as one."""
    by_name: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: (path.rstrip("/").count("/"), path)):
        by_name.setdefault(Path(path).name, []).append(path)
    said = [
        same[0] if len(same) == 1 else f"{name}{'/' * same[0].endswith('/')} in {len(same)} places"
        for name, same in by_name.items()
    ]
    more = len(said) - SHOWN_PATHS
    return ", ".join(said[:SHOWN_PATHS]) + (f" and {more} more" if more > 0 else "")


def _holds_keys(path: Path, known: Sequence[bytes]) -> bool:
    """Whether a file is one of keys, tokens or passwords by its name, or by what it holds."""
    if _KEY_FILE.fullmatch(path.name):
        return True
    if path.stat().st_size > _READ_BYTES:
        return False
    content = path.read_bytes()
    if any(value in content for value in known):
        return True
    text = content.decode("utf-8", errors="replace").strip()
    if path.suffix == ".json" and '"private_key"' in text:
        return _has_private_key(text)
    alone = text.startswith("-----BEGIN") and "PRIVATE KEY-----" in text
    return alone or without_secrets(text) == "..."


def _has_private_key(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and "PRIVATE KEY" in str(found.get("private_key"))
