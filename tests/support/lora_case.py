"""A small trial by an adapter, runnable as a process of a gloo group.

python tests/support/lora_case.py RANK WORKERS MEETING_FILE OUT

Leaves in OUT.RANK what an epoch came to at each ZeRO stage, by the cache of hidden states and by the live original.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from transformers import PreTrainedModel

from icu_ray.config import LoraConfig
from icu_ray.models.adapters import attach
from icu_ray.models.reference import Cache, build_reference
from icu_ray.training.engine import set_device_environment
from icu_ray.training.records import TrialData
from tests.support.training_case import case, one_epoch

STAGES = (0, 1, 2)
ROWS = 7


def lora_case(
    family: str = "gpt_neo", cache: Cache = "hidden", seed: int = 42, bf16: bool = False, **lora: object
) -> tuple[PreTrainedModel, TrialData]:
    """The model of `case`, which knows its targets, with a new adapter, and the original told by `cache`."""
    model, data = case(family, count=ROWS)
    model = model.bfloat16() if bf16 else model
    attach(model, LoraConfig(**{"rank": 4, **lora}), seed, "tiny")  # type: ignore[arg-type]
    return model, replace(data, reference=build_reference(model, data.pairs, cache))


def trained(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The adapter, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def base(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The model's own weights, by the names that they have without an adapter."""
    own = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" not in name}
    return {name.replace(".base_layer", ""): p for name, p in own.items()}


def main() -> None:
    rank, workers = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    set_device_environment(torch.device("cpu"))
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=workers)
    found = {}
    for stage in STAGES:
        for cache in ("hidden", "recompute"):
            drawn = lora_case(cache=cache)  # type: ignore[arg-type]
            how: dict[str, object] = {"zero_stage": stage, "micro_batch": 1 if workers > 1 else None, "lr": 1e-2}
            made = one_epoch(np.ones(ROWS, dtype=bool), rank, workers, drawn=drawn, **how)
            kept = {key: made[key] for key in ("losses", "parameters")}
            found[f"{stage} {cache}"] = kept
    torch.save(found, f"{sys.argv[4]}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
