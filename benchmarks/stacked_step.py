"""What stacked_adapters.py compares: a step of one cell by peft's adapter, and of several cells stacked on one model.

    one, stack = peft_adapter(model, values), stacked_adapters(other, values)
    step(one, batch, lambda model, some: loss_alone(model, some, cell))
    step(stack, batch, lambda model, some: loss_stacked(model, some, cells))

values: matrices (C, ...) by name, "<layer>.a" and "<layer>.b", of an adapter for each of C cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from icu_ray import methods
from icu_ray.config import LoraConfig, LossConfig
from icu_ray.methods.base import Batch
from icu_ray.models.adapters import attach
from icu_ray.models.hidden import last_hidden, output_head

Cell = tuple[float, float]
"""alpha, beta."""
CHUNK = LossConfig().chunk
LORA = LoraConfig()


class StackedLinear(nn.Module):
    """A frozen linear layer beside C adapters; its input holds C equal blocks of rows, one a cell.

    a: (C, rank, in); b: (C, out, rank).
    """

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.a, self.b, self.scale = base, nn.Parameter(a), nn.Parameter(b), scale

    def forward(self, x: Tensor) -> Tensor:
        whole = self.base(x)
        cells = len(self.a)
        small = torch.bmm(x.reshape(cells, -1, x.shape[-1]), self.a.mT)
        whole.view(cells, -1, whole.shape[-1]).baddbmm_(small, self.b.mT, alpha=self.scale)
        return whole


@dataclass
class Adapters:
    """A model with adapters, their matrices by name, and an optimizer of them."""

    model: PreTrainedModel
    matrices: dict[str, nn.Parameter]
    adam: torch.optim.Optimizer

    @staticmethod
    def of(model: PreTrainedModel, matrices: dict[str, nn.Parameter]) -> Adapters:
        model.train()
        return Adapters(model, matrices, torch.optim.Adam(matrices.values(), lr=1e-6, fused=True))


def peft_adapter(model: PreTrainedModel, values: dict[str, Tensor]) -> Adapters:
    """The project's own adapter in `model`, with the values of the first cell."""
    attach(model, LORA, 0, "benchmark")
    known = {"a": "lora_A", "b": "lora_B"}
    matrices = {}
    for name, value in values.items():
        layer, _, which = name.rpartition(".")
        matrix = getattr(model.get_submodule(layer), known[which])["default"].weight
        matrix.data.copy_(value[0])
        matrices[name] = matrix
    return Adapters.of(model, matrices)


def stacked_adapters(model: PreTrainedModel, values: dict[str, Tensor]) -> Adapters:
    """The adapters of all cells beside the layers of `model`."""
    model.requires_grad_(False)
    for name in sorted({name.rpartition(".")[0] for name in values}):
        parent, _, child = name.rpartition(".")
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        own = (values[f"{name}.{which}"].clone() for which in "ab")
        setattr(model.get_submodule(parent), child, StackedLinear(layer, *own, LORA.alpha / LORA.rank))
    return Adapters.of(model, {name: model.get_parameter(name) for name in values})


def linear_layers(model: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    """All but the output matrix."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return [(name, x) for name, x in model.named_modules() if isinstance(x, nn.Linear) and x is not head]


def new_values(model: PreTrainedModel, cells: int) -> dict[str, Tensor]:
    """Random values of `cells` adapters, as after some training: b is not zero."""
    torch.manual_seed(1)
    values = {}
    for name, layer in linear_layers(model):
        values[f"{name}.a"] = torch.randn(cells, LORA.rank, layer.in_features) / layer.in_features**0.5
        values[f"{name}.b"] = 0.01 * torch.randn(cells, layer.out_features, LORA.rank)
    return values


def loss_alone(model: PreTrainedModel, batch: Batch, cell: Cell) -> Tensor:
    """The loss of one cell, as a trial computes it."""
    return methods.get("icu", alpha=cell[0], beta=cell[1], loss=LossConfig()).loss(model, batch).total


def loss_stacked(model: PreTrainedModel, batch: Batch, cells: Sequence[Cell]) -> Tensor:
    """The sum of all cells' losses on one batch; each cell's adapter has its own loss's gradient."""
    assert batch.pair_ids is not None
    ids = torch.cat([batch.target_ids, batch.pair_ids]).repeat(len(cells), 1)
    hidden = last_hidden(model, ids, torch.ones_like(ids))
    total: Tensor = _StackedLoss.apply(hidden.view(len(cells), 2, len(batch), *hidden.shape[1:]), model, batch, cells)
    return total


class _StackedLoss(torch.autograd.Function):
    """methods/vocabulary_loss.py for cells side by side: in a chunk of tokens the original's scores are made once."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, model: PreTrainedModel, batch: Batch, cells: Sequence[Cell]) -> Tensor:
        weight, _ = output_head(model)
        assert batch.pair_labels is not None and batch.pair_weights is not None and batch.kl_weights is not None
        assert batch.reference is not None and batch.reference.hidden is not None
        gradient = torch.zeros_like(hidden)
        states, slopes = hidden.flatten(2, 3), gradient.view(*hidden.shape[:2], -1, hidden.shape[-1])
        blocks = hidden.new_empty((3, CHUNK, len(weight)))
        factors = torch.tensor(cells).T
        total = hidden.new_zeros(())
        sides = ((batch.target_labels, batch.target_weights), (batch.pair_labels, batch.pair_weights))
        compared, original = batch.kl_weights.flatten(), batch.reference.hidden.flatten(0, 1)
        for side, (labels, weights) in enumerate(sides):
            # The label of the next token, and what it weighs.
            wanted, weighed = (nn.functional.pad(x[:, 1:], (0, 1)).flatten() for x in (labels, weights))
            used = (weighed != 0) | (compared != 0) if side else weighed != 0
            for some in used.nonzero().flatten().split(CHUNK):
                scores, _, p = blocks[:, : len(some)].unbind()
                if side:
                    torch.mm(original[some], weight.T, out=scores)
                    torch.softmax(scores, -1, out=p)
                    # sum p log p
                    own = torch.linalg.vecdot(p, scores) - scores.amax(-1) + p.amax(-1).log()
                # As many cells at once as fill a chunk.
                for few in torch.arange(len(cells)).split(max(CHUNK // len(some), 1)):
                    group = slice(int(few[0]), int(few[-1]) + 1)
                    rows = states[group, side][:, some]
                    alpha, beta = factors[:, group, None]
                    scores, q = (x[: len(few) * len(some)].view(len(few), len(some), -1) for x in blocks[:2])
                    torch.mm(rows.flatten(0, 1), weight.T, out=scores.flatten(0, 1))
                    top = scores.amax(-1)
                    torch.softmax(scores, -1, out=q)
                    normaliser = top - q.amax(-1).log()
                    learn = (alpha if side else -torch.ones_like(alpha)) * weighed[some]
                    pull = beta * compared[some] if side else torch.zeros_like(learn)
                    right = wanted[some, None].clamp(min=0).expand(len(few), -1, 1)
                    total += (learn * (normaliser - scores.gather(-1, right)[..., 0])).sum()
                    q *= (learn + pull)[..., None]
                    if side:
                        total += (pull * (own - torch.linalg.vecdot(p, scores) + normaliser)).sum()
                        q.addcmul_(p, pull[..., None], value=-1.0)
                    q.scatter_add_(-1, right, -learn[..., None])
                    slopes[group, side, some] = q @ weight
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.gradient * upstream[0], None, None, None


def step(adapters: Adapters, batch: Batch, loss: Callable[[PreTrainedModel, Batch], Tensor]) -> None:
    """Forward, backward and a step of Adam; the gradients stay."""
    adapters.adam.zero_grad()
    loss(adapters.model, batch).backward()
    adapters.adam.step()
