"""Epochs with step rules and training arguments on a small trial, runnable as a process of a gloo group.

python tests/support/steps_case.py RANK WORLD_SIZE RENDEZVOUS_FILE OUT_FILE

OUT_FILE.RANK gets the weights and losses of each case after two epochs, at each of ZeRO 0, 1 and 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import numpy as np
import torch

from icu_ray.config import OptimConfig, StepConfig, StopConfig
from icu_ray.training.engine import set_device_environment
from tests.support.training_case import case, tokenizer, trial_settings

OPTIM = OptimConfig(betas=(0.9, 0.999), eps=1e-3, weight_decay=0.1, schedule="linear", warmup_epochs=1, clip=0.5)
CASES: Mapping[str, dict[str, Any]] = {
    "sam": {"method": "graddiff", "alpha": 0.7, "step": StepConfig(rule="sam", rho=0.02)},
    "sam-alone": {"method": "kumpr", "step": StepConfig(rule="sam", rho=0.02)},
    "gru": {"method": "kumpr", "step": StepConfig(rule="gru")},
    "gru-average": {
        "method": "graddiff",
        "alpha": 0.7,
        "step": StepConfig(rule="gru", average=0.8, max_opposition=0.02),
    },
    "plain": {"method": "kumpr"},
}


def settings_of(name: str, **changes: Any) -> Any:
    common = {"optim": OPTIM, "max_epochs": 3, "stop": StopConfig(rule="epochs", ma=0.0)}
    return trial_settings(**(common | CASES[name] | changes))


def epochs_of(name: str, rank: int = 0, world_size: int = 1, given: Any = None, **changes: Any) -> dict[str, Any]:
    """Two epochs of a case. given: another model and data than those of training_case.py."""
    from icu_ray.training.epoch import EpochTrainer

    model, data = given or case()
    trainer = EpochTrainer(settings_of(name, **changes), data, model, tokenizer(), rank, world_size)
    losses = [trainer.train(epoch, np.ones(len(data.targets), dtype=bool))[0] for epoch in (1, 2)]
    trainer.close()
    return {"parameters": {n: p.detach().clone() for n, p in model.named_parameters()}, "losses": losses}


def main() -> None:
    rank, world_size = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    set_device_environment(torch.device("cpu"))
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world_size)
    found = {
        f"{name}-{stage}": epochs_of(name, rank, world_size, zero_stage=stage, micro_batch=1)
        for name in CASES
        for stage in (0, 1, 2)
    }
    torch.save(found, f"{sys.argv[4]}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
