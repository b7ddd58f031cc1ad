"""A group of processes of a script of tests/support, one a worker, and what each leaves.

found = worker_processes("tests/support/training_case.py", 2, "2", "meeting", "out.pt", out=Path("out.pt"))
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def worker_processes(script: str, workers: int, *given: str, out: Path) -> list[dict[str, Any]]:
    """What `script RANK *given` saved as `out`.RANK, by rank; all must end well."""
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), *given],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * workers, "\n".join(outputs)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(workers)]
