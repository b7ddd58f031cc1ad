"""Stand-ins that one test has trained, for others that need the same: a folder for all processes of a run of tests.

with lent(trained, tmp_path / "runs" / "store"):    # `trained` is a fixture
    run_sweep(plan)

What a store holds is named by the hash of all that decides it: the model that is found is the one that would be made.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def lent(trained: Path, store: Path) -> Iterator[None]:
    """Put every trained model of this run into the store, and take what was trained meanwhile from there."""
    _copy(trained / "models", store / "models")
    yield
    _copy(store / "models", trained / "models")


def _copy(source: Path, target: Path) -> None:
    """Whole artefacts that the target lacks; each is there at once, or not at all."""
    target.mkdir(parents=True, exist_ok=True)
    for manifest in source.glob("*/manifest.json"):
        artefact = manifest.parent
        if artefact.name.startswith(".") or (target / artefact.name).exists():
            continue
        with tempfile.TemporaryDirectory(dir=target.parent) as staging:
            copy = Path(shutil.copytree(artefact, Path(staging) / artefact.name))
            with contextlib.suppress(OSError):  # another process was quicker
                copy.rename(target / artefact.name)
