"""The model and its method as one module whose forward is a loss: what a DeepSpeed engine or DDP can wrap.

    engine, *_ = deepspeed.initialize(model=UnlearningModule(model, method), ...)
    terms = engine(batch)
    engine.backward(terms.total * world_size)     # losses of ranks add up, DeepSpeed averages them

Parameter names are the model's own with "model." before them: `inner_state(state)` takes it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from torch import nn

from icu_ray.methods.losses import evaluate
from icu_ray.models.hidden import check_seam

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icu_ray.methods.base import Batch, LossTerms, Method
    from icu_ray.methods.objective import Objective

PREFIX = "model."
Value = TypeVar("Value")


class UnlearningModule(nn.Module):
    """Refuses at once a model whose logits the losses cannot take apart (see models/hidden.py)."""

    def __init__(self, model: PreTrainedModel, method: Method) -> None:
        super().__init__()
        check_seam(model)
        self.model = model
        self.method = method

    def forward(self, batch: Batch, part: Objective | None = None) -> LossTerms:
        """The method's loss on a batch, or a part of it."""
        if part is None:
            return self.method.loss(self.model, batch)
        return evaluate(part, self.model, batch, self.method.options)


def inner_state(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict of the module with the model's own names."""
    return {name.removeprefix(PREFIX): value for name, value in state.items()}
