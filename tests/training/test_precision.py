"""bf16 training: torch's Adam on fp32 masters at every ZeRO stage.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from icu_ray.training.engine import distributed, set_device_environment
from tests.support import bf16_case
from tests.support.bf16_case import ROWS, STAGES, STEPS, adam_steps, engine_steps

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    set_device_environment(torch.device("cpu"))
    with distributed(0, 1):
        yield


def assert_steps_of_adam(found: list[torch.Tensor], share: int) -> None:
    """After each step the weights are Adam's, but for a thousandth of the way they have come."""
    start, *wanted = adam_steps(found, share)
    assert len(found) == len(wanted) == STEPS
    for step, (mine, theirs) in enumerate(zip(found, wanted, strict=True), start=1):
        apart = float((mine - theirs).norm() / (theirs - start).norm())
        assert apart <= 1e-3, f"after step {step}: {apart:.4f} of the way apart"


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_bf16_trains_as_adam_on_fp32_masters(stage: int, accumulation: int) -> None:
    assert_steps_of_adam(engine_steps(stage, accumulation=accumulation), ROWS // accumulation)


@pytest.mark.slow
def test_bf16_on_two_workers_trains_as_adam_on_fp32_masters(tmp_path: Path) -> None:
    meeting, out = tmp_path / "meet", tmp_path / "out.pt"
    processes = [
        subprocess.Popen(
            [sys.executable, bf16_case.__file__, str(rank), "2", str(meeting), str(out)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    found: dict[int, list[torch.Tensor]] = torch.load(out, weights_only=True)
    for stage in STAGES:
        assert_steps_of_adam(found[stage], ROWS // 2)
