"""The same numbers whatever the machine: workers, ZeRO stages and micro batches of one table, in fp32.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.same_numbers import MICRO_BATCHES, STAGES, STEPS
from tests.support.worker_processes import worker_processes

pytestmark = pytest.mark.slow
WORKERS = (1, 2, 3)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], dict[str, Any]]:
    """By (workers, rank), what each came to by stage and micro batch."""
    folder, made = tmp_path_factory.mktemp("same"), {}
    for workers in WORKERS:
        out = folder / f"{workers}.pt"
        given = [str(workers), str(folder / f"meet_{workers}"), str(out)]
        each = worker_processes("tests/support/same_numbers.py", workers, *given, out=out)
        made |= {(workers, rank): mine for rank, mine in enumerate(each)}
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
