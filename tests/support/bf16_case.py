"""Steps of bf16 training through the engine and through torch alone, runnable as a process of a gloo group.

python tests/support/bf16_case.py RANK WORLD_SIZE RENDEZVOUS_FILE OUT_FILE

It trains at every ZeRO stage; rank 0 writes {stage: the weights after each step}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ["DS_ACCELERATOR"] = "cpu"

import numpy as np
import torch

from icu_ray import methods
from icu_ray.config import LossConfig
from icu_ray.methods.base import Batch
from icu_ray.methods.module import UnlearningModule
from icu_ray.methods.weights import batch_weights
from icu_ray.models.reference import build_reference
from icu_ray.training.engine import Engine, set_device_environment
from icu_ray.training.engine_settings import EngineSettings
from tests.support.stage3_case import divide_everything
from tests.support.tiny_models import tiny_model, tiny_rows

STAGES = (0, 1, 2, 3)
STEPS, ROWS = 5, 4
LR, BETAS, EPS = 1e-2, (0.9, 0.98), 1e-3
"""Steps that the eight bits of bf16 weights show; an eps that does not turn a gradient's rounding into whole steps."""


def _module() -> UnlearningModule:
    return UnlearningModule(tiny_model("gpt_neo").bfloat16(), methods.get("icu", alpha=0.5, beta=1.0))


def _micro_batches(share: int) -> Iterator[list[Batch]]:
    """The rows of each step, `share` rows a batch."""
    targets, pairs = tiny_rows(STEPS * ROWS, 1), tiny_rows(STEPS * ROWS, 2)
    reference = build_reference(tiny_model("gpt_neo").bfloat16(), pairs)
    for step in range(STEPS):
        rows = np.arange(ROWS) + ROWS * step
        weights = batch_weights(
            targets.labels[rows], pairs.labels[rows], np.ones(ROWS, dtype=bool), targets.columns, LossConfig()
        )
        yield [
            Batch.gather(targets, pairs, rows[part], weights.rows(part), reference.batch(rows[part]))
            for part in (slice(first, first + share) for first in range(0, ROWS, share))
        ]


def _weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().float().flatten() for p in module.parameters()])


def adam_steps(seen: list[torch.Tensor], share: int) -> list[torch.Tensor]:
    """The weights that torch's Adam on fp32 masters makes after each step, and before the first.

    Each step's gradients are those of the bf16 weights `seen` before it: one bit of them more or less would make
    another gradient, and the steps after it could not be compared.
    """
    module = _module()
    parameters = list(module.parameters())
    masters = [p.detach().float() for p in parameters]
    adam = torch.optim.Adam(masters, lr=LR, betas=BETAS, eps=EPS)
    found = [_weights(module)]
    for before, batches in zip([found[0], *seen], _micro_batches(share), strict=False):
        torch.nn.utils.vector_to_parameters(before.bfloat16(), parameters)
        module.zero_grad()
        for batch in batches:
            module(batch).total.backward()
        for master, parameter in zip(masters, parameters, strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        adam.step()
        found.append(torch.cat([master.bfloat16().float().flatten() for master in masters]))
    return found


def engine_steps(stage: int, rank: int = 0, world_size: int = 1, accumulation: int = 1) -> list[torch.Tensor]:
    """The weights after each step of the engine, which shares the rows of a step out to ranks and micro batches."""
    module = _module()
    share = ROWS // world_size // accumulation
    settings = EngineSettings(LR, BETAS, EPS, share, accumulation, precision="bf16", zero_stage=stage)
    engine = Engine(module, settings, rank, world_size)
    found = []
    for batches in _micro_batches(share):
        engine.step(batches[rank * accumulation : (rank + 1) * accumulation])
        with engine.whole_model():
            found.append(_weights(module))
    engine.close()
    return found


def main() -> None:
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    set_device_environment(torch.device("cpu"))
    divide_everything()
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size)
    found = {stage: engine_steps(stage, rank, world_size) for stage in STAGES}
    if rank == 0:
        torch.save(found, sys.argv[4])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
