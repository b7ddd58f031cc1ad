"""Which weights AdamW lets decay: all that are trained but biases and the weights of norms, as transformers' Trainer.

    deepspeed.initialize(model_parameters=decay_groups(module, 0.01), ...)

A parameter is left out where its name says "bias" or that it is of a norm, and where it is of torch's LayerNorm, whose
name says nothing of it in some families ("ln_1"). Embeddings and adapters decay.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_LEFT_OUT = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def decay_groups(module: nn.Module, weight_decay: float) -> list[nn.Parameter] | list[dict[str, Any]]:
    """What an optimizer is given: the trained parameters; with weight decay in groups, one of them without. No group is
    empty."""
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not weight_decay:
        return [parameter for _, parameter in named]
    norms = [each for each in module.modules() if isinstance(each, nn.LayerNorm)]
    kept = {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}
    kept |= {id(parameter) for name, parameter in named if _LEFT_OUT.search(name.lower())}
    groups = [
        {"params": [p for _, p in named if id(p) not in kept], "weight_decay": weight_decay},
        {"params": [p for _, p in named if id(p) in kept], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
