"""How fast a core of this machine computes: measured in half a second on first use, and kept for later plans.

core_flops()      # 2.1e10 operations a second, of the kind that training makes

Kept in the user's cache folder (XDG_CACHE_HOME, else ~/.cache) under the processor's name. It is the speed of the
machine that plans; where a cluster's nodes are others, its estimates are corrected by the trials that have ended.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from icu_ray.storage.files import write_atomic

REFERENCE_FLOPS, REFERENCE_SCORE = 20e9, 75e9
"""Of one machine (AMD EPYC, docs/results.md): operations a second of a core in whole epochs of stand-ins, training and
probe, and the score below. Elsewhere the same part of the score is reckoned with."""
_SECONDS = 60.0
_SCORE = """
import time
import numpy
a = numpy.random.default_rng(0).random((256, 256), dtype=numpy.float32)
best, end = 1.0, time.perf_counter() + 0.4
while time.perf_counter() < end:
    began = time.perf_counter()
    a @ a
    best = min(best, time.perf_counter() - began)  # the best one was not disturbed by other work
print(2 * 256**3 / best)
"""


@functools.cache
def core_flops() -> float:
    """Sustained floating point operations a second of one CPU core here."""
    file, name = _cache_file(), _processor()
    kept = _read(file)
    if name not in kept:
        score = _measure()
        if score is None:
            return REFERENCE_FLOPS
        kept[name] = score
        with contextlib.suppress(OSError):  # a home that cannot be written: it is measured again next time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(str(file), json.dumps(kept).encode())
    return REFERENCE_FLOPS * kept[name] / REFERENCE_SCORE


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "icu_ray" / "machine_speed.json"


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read(file: Path) -> dict[str, float]:
    """What was kept; nothing where the file is not there or is not ours."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {str(key): float(value) for key, value in found.items() if isinstance(value, float) and value > 0}
    return {}


def _measure() -> float | None:
    """Products of matrices in a process of its own, where they can be told to take one core; None: it did not work."""
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SCORE],
            env=os.environ | alone,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
