"""ZeRO stage 3: weights that lie divided among the ranks, and how to have them whole again.

    with gathered(engine): measure(model)     # every rank by itself, as often and as long as it likes
    leave_whole(engine)                       # training is over: plain parameters, whole on every rank
    inner = divide_frozen(module)             # a frozen module divided among the ranks, the original model say

DeepSpeed divides by hooks on every module: before its forward its weights are gathered from all ranks, after it they
are let go. Each is a collective, so ranks must run such a model equally often. A measurement does not: ranks have other
rows and decode as many tokens as these need. So it runs without hooks, on weights that are gathered once.

Memory: whoever gathers holds the whole model on each device, beside its part of it and of the optimizer's state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def gathered(engine: Any, changed: bool = False) -> Iterator[None]:
    """Inside, the module of a DeepSpeed engine of stage 3 is whole and has no hooks. All ranks enter and leave.

    changed: the weights are written to inside; those of rank 0 are kept.
    """
    import deepspeed

    with _without_hooks(engine):
        parameters = list(engine.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if changed else None):
            yield


@contextlib.contextmanager
def _without_hooks(engine: Any) -> Iterator[None]:
    offload = _offload(engine)
    for parameter in engine.module.parameters():
        parameter.ds_active_sub_modules.clear()
    for hooks in (offload.forward_hooks, offload.backward_hooks):
        for hook in hooks:
            hook.remove()
        hooks.clear()
    try:
        yield
    finally:
        # It also forgets the order of modules that it has learnt for fetching ahead, and learns it in the next step.
        offload._register_deepspeed_module(offload.module)


def leave_whole(engine: Any) -> None:
    """Give the module plain parameters, whole on every rank, shared where they were. The engine can train no more."""
    import deepspeed

    plain: dict[int, nn.Parameter] = {}
    for parameter in engine.module.parameters():
        # One at a time: all gathered and their copies together would be the model twice.
        with deepspeed.zero.GatheredParameters([parameter]):
            plain[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    for module in engine.module.modules():
        kept = {name: None if p is None else plain[id(p)] for name, p in module._parameters.items()}
        module._parameters = kept
        for left in ("_original_parameters", "_external_params"):
            module.__dict__.pop(left, None)


def divide_frozen(module: nn.Module) -> Any:
    """Divide a module without gradients among the ranks; its engine, which must be kept while the module is used.

    The module is called as before, by all ranks equally often; what is not called through it no longer has weights.
    """
    import deepspeed

    config = frozen_config(next(module.parameters()).dtype)
    inner, *_ = deepspeed.initialize(model=module, config=config, dist_init_required=False)
    module.train(False)
    return inner


def frozen_config(precision: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's configuration without an optimizer."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": precision == torch.bfloat16},
    }


def _offload(engine: Any) -> Any:
    """What has the hooks: a part of the optimizer, or in its place where there is none."""
    return getattr(engine.optimizer, "parameter_offload", engine.optimizer)
