"""A sweep that is over in a minute, for the benchmarks of what stands around training; it is no benchmark itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TINY: Mapping[str, Any] = {
    "data": {"source": "synthetic", "records": 40, "sample_size": 4, "heldout": 4},
    "columns": {"length": 48, "prefix_start": 16, "suffix_start": 32},
    "models": [{"name": "small", "standin": {"size": "small", "vocabulary": 500, "target_repeats": 8}}],
    "el": {"ngram": 5},
    "stop": {"max_epochs": 1},
    "pairs": {"encoder": "bundled"},
    "filter": {"encoder": "bundled", "encoder_layer": 6},
    "tracking": {"enabled": False},
}


def python(*arguments: str, folder: Path) -> str:
    """Run this Python in a process of its own; what it printed, or RuntimeError."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {ran.stdout[-2000:]}{ran.stderr[-4000:]}")
    return ran.stdout
