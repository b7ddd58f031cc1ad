"""What an engine is told, and DeepSpeed's own configuration of it.

deepspeed_config(EngineSettings(1e-5, (0.9, 0.98), 1e-8, micro_batch=4, accumulation=2), 1, device)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from icu_ray.config import StepConfig
from icu_ray.plan.memory import BUCKET


@dataclass(frozen=True)
class EngineSettings:
    """lr, betas, eps, weight_decay (decoupled; of which weights: weight_decay.py): Adam's. micro_batch: rows of a
    forward of a rank; accumulation: its forwards of a step. clip: largest norm of a step's gradient, None: any. step: a
    rule for it, None: plain descent."""

    lr: float
    betas: tuple[float, float]
    eps: float
    micro_batch: int
    accumulation: int
    precision: str = "fp32"
    zero_stage: int = 0
    offload_optimizer: bool = False
    weight_decay: float = 0.0
    clip: float | None = None
    step: StepConfig | None = None


def deepspeed_config(
    settings: EngineSettings, world_size: int, device: torch.device, parameters: int = BUCKET
) -> dict[str, Any]:
    """DeepSpeed's own configuration."""
    zero: dict[str, Any] = {"stage": settings.zero_stage}
    if settings.zero_stage:
        # It is made whole at the start: by DeepSpeed's default 2 GB in fp32 for the smallest of models.
        zero["reduce_bucket_size"] = min(BUCKET, parameters)
    if settings.offload_optimizer and device.type == "cuda":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    adam: dict[str, Any] = {
        "lr": settings.lr,
        "betas": list(settings.betas),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
        "adam_w_mode": settings.weight_decay > 0,  # which is the same without any
    }
    if "offload_optimizer" not in zero:
        # DeepSpeed's kernels are compiled at first use; torch's need no compiler. One pass over weights, gradients
        # and moments in place of ten: 5 % of a step at 50,257 words on a CPU.
        adam |= {"torch_adam": True, "fused": True}
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "gradient_accumulation_steps": settings.accumulation,
        "train_batch_size": settings.micro_batch * settings.accumulation * world_size,
        "optimizer": {
            "type": "Adam",
            "params": adam,
        },
        "zero_optimization": zero,
        "bf16": {"enabled": settings.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": settings.clip or 0.0,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
