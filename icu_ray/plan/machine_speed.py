"""How fast a core and a GPU of this machine compute: measured in half a second on first use, and kept for later plans.

core_flops()      # 2.1e10 operations a second, of the kind that training makes
gpu_flops()       # the same of a GPU; of the one of reference where this machine has none

Kept in the user's cache folder ($ICU_RAY_CACHE, else icu_ray in $XDG_CACHE_HOME or ~/.cache) by the names of processor
and GPU. It is the speed of the machine that plans; where a cluster has others, estimates are corrected by the trials
that have ended.
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
from typing import Literal

from icu_ray.storage.files import cache_folder, write_atomic

REFERENCE_FLOPS, REFERENCE_SCORE = 20e9, 75e9
"""Of one machine (AMD EPYC, docs/results.md): operations a second of a core in whole epochs of stand-ins, training and
probe, and the score below. Elsewhere the same part of the score is reckoned with."""
GPU_REFERENCE_FLOPS, GPU_REFERENCE_SCORE = 30e12, 51e12
"""Of one H100 (benchmarks/README.md): the score in fp32, and twice what whole epochs of GPT-Neo 125M reached; larger
models use a GPU better than that one."""
GPU_LEAST_SCORE = 1e12
"""A lower one tells of other work on the GPU rather than of the GPU, and is not kept."""
FILE = "machine_speed.json"
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
_GPU_SCORE = """
import time
import torch
a = torch.rand(4096, 4096, device="cuda")
a @ a  # the first one loads cuBLAS
torch.cuda.synchronize()
times, end = [], time.perf_counter() + 0.4
while len(times) < 5 or time.perf_counter() < end:
    began = time.perf_counter()
    a @ a
    torch.cuda.synchronize()
    times.append(time.perf_counter() - began)
best = min(times)
print(2 * 4096**3 / best)
"""


@functools.cache
def core_flops() -> float:
    """Sustained floating point operations a second of one CPU core here."""
    score = _score(_processor(), _SCORE)
    return REFERENCE_FLOPS if score is None else REFERENCE_FLOPS * score / REFERENCE_SCORE


@functools.cache
def gpu_flops() -> float:
    """Sustained floating point operations a second of one GPU here, or of the one of reference."""
    name = gpu_name()
    return gpu_flops_of(None if name is None else _score(name, _GPU_SCORE, GPU_LEAST_SCORE))


def gpu_flops_of(score: float | None) -> float:
    """By products of matrices a GPU makes so many operations a second; None: not measured."""
    return GPU_REFERENCE_FLOPS if score is None else GPU_REFERENCE_FLOPS * score / GPU_REFERENCE_SCORE


def is_measured(device: Literal["cpu", "gpu"]) -> bool:
    """Whether the speed of a core or a GPU of this machine was measured and kept; measures nothing."""
    name = gpu_name() if device == "gpu" else _processor()
    return name in _read(cache_folder() / FILE)


def machine_name(device: Literal["cpu", "gpu"]) -> str | None:
    """What trials on such a device ran on, if they ran here; None: it is not known, or this machine has none."""
    return gpu_name() if device == "gpu" else f"{_processor()} x{os.cpu_count()}"


def gpu_name() -> str | None:
    """The first GPU of this machine as NVIDIA's driver calls it, without asking torch; None where all are hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return None if hidden else _gpu_model()


@functools.cache
def _gpu_model() -> str | None:
    with contextlib.suppress(OSError, StopIteration):
        files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        lines = [line for file in files[:1] for line in file.read_text().splitlines()]
        return next(line for line in lines if line.startswith("Model:")).split(":", 1)[1].strip()
    return None


def _score(name: str, script: str, least: float = 0.0) -> float | None:
    """What was kept under this name, else what the script measures; None: it could not.

    It is kept where it is `least` or more.
    """
    file = cache_folder() / FILE
    kept = _read(file)
    if name not in kept or kept[name] < least:
        score = _measure(script)
        if score is None or score < least:
            return score
        kept[name] = score
        with contextlib.suppress(OSError):  # a home that cannot be written: it is measured again next time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(str(file), json.dumps(kept).encode())
    return kept[name]


@functools.cache
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


def _measure(script: str) -> float | None:
    """Products of matrices in a process of its own, where they can be told to take one core; None: it did not work."""
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | alone,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
