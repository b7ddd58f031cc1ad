"""What every benchmark prints beside its numbers: a table and the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch


def machine() -> dict[str, Any]:
    """CPU model, cores, what a core computes, threads of torch, versions."""
    cpu = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    score = f"{_core_score() / 1e9:.0f} GFLOP/s"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "a core": score,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _core_score() -> float:
    """Operations a second of one core in products of small matrices: it tells machines of one name apart."""
    left, threads = torch.rand(256, 256), torch.get_num_threads()
    torch.set_num_threads(1)
    best, end = 1.0, time.perf_counter() + 0.4
    while time.perf_counter() < end:
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)  # the best one was not disturbed by other work
    torch.set_num_threads(threads)
    return 2 * 256**3 / best


def print_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Rows as a Markdown table; columns: key of a row to its format specification, '' for text."""
    cells = [
        [f"{row[key]:{form}}" if row.get(key) is not None else "" for key, form in columns.items()] for row in rows
    ]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(columns)]
    for line in [list(columns), ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
