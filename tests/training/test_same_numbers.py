"""The same numbers whatever the machine: workers, ZeRO stages and micro batches of one table, in fp32.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.same_numbers import MICRO_BATCHES, STAGES, STEPS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WORKERS = (1, 2, 3)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, Any]]:
    """By (workers, rank), what each came to by stage and micro batch."""
    folder, made = tmp_path_factory.mktemp("same"), {}
    for workers in WORKERS:
        given = [str(workers), str(folder / f"meet_{workers}"), str(folder / f"{workers}.pt")]
        processes = [
            subprocess.Popen(
                [sys.executable, "tests/support/same_numbers.py", str(rank), *given],
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
        for rank in range(workers):
            made[workers, rank] = torch.load(folder / f"{workers}.pt.{rank}", weights_only=True)
    return made


@pytest.mark.parametrize("micro", MICRO_BATCHES)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("workers", WORKERS)
def test_losses_and_parameters_after_three_steps(
    workers: int, stage: int, micro: int | None, found: dict[tuple[int, int], dict[str, Any]]
) -> None:
    plain = found[1, 0]["0 None"]  # one worker, nothing divided, all rows at once
    assert plain["steps"] == STEPS
    for rank in range(workers):
        mine = found[workers, rank][f"{stage} {micro}"]
        assert mine["steps"] == STEPS
        assert mine["losses"] == pytest.approx(plain["losses"], rel=1e-5)
        for name, parameter in plain["parameters"].items():
            torch.testing.assert_close(mine["parameters"][name], parameter, rtol=1e-4, atol=1e-6, msg=name)
