"""What a training batch carries of the frozen original model: its view of these rows; `reference.py` keeps that of all.

rows = reference.batch(indices, device); rows.scores_into(block, where)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from icu_ray.models.hidden import linear_into

HEAD = ("weight", "bias")
OF_ROWS = ("hidden", "probs", "target_nll", "pair_nll", "alternate_nll", "target_hidden", "target_probs")


@dataclass(frozen=True)
class ReferenceBatch:
    """The original model on B pairs of L tokens: either hidden, weight (and bias), or dense probs.

    hidden: (B, L, H); weight: (V, H); bias: (V,) or None; probs: (B, L, V) float32.
    target_nll, pair_nll, alternate_nll: (B, L) float32, [b, t] = -log P_theta0(token t | tokens before t), 0 where
    nothing is scored.
    target_hidden, target_probs: as hidden and probs, on the targets. layers: (B, L, H) states of layers on the pairs.
    """

    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    probs: Tensor | None = None
    target_nll: Tensor | None = None
    pair_nll: Tensor | None = None
    alternate_nll: Tensor | None = None
    target_hidden: Tensor | None = None
    target_probs: Tensor | None = None
    layers: Mapping[int, Tensor] = field(default_factory=dict)

    def scores_into(self, out: Tensor, where: Tensor, side: str = "pair") -> Tensor:
        """out (C, V) float32 = log p up to a constant a row, at flat positions b * L + t; returns `out`.

        side: whose rows, "pair" or "target". Of hidden states they are the very scores.
        """
        probs, hidden = (self.probs, self.hidden) if side == "pair" else (self.target_probs, self.target_hidden)
        if probs is not None:
            # Dense probabilities underflow to 0; the smallest normal number in its place weighs nothing either.
            smallest = torch.finfo(out.dtype).tiny
            return torch.index_select(probs.flatten(0, 1), 0, where, out=out).clamp_(min=smallest).log_()
        if hidden is None or self.weight is None:
            raise ValueError(f"the reference holds no distributions of {side} rows")
        return linear_into(out, hidden.flatten(0, 1)[where], self.weight, self.bias)

    def without_columns(self, count: int) -> ReferenceBatch:
        """The same without its first `count` columns, which are pads."""
        return self._each(lambda rows: rows[:, count:].contiguous()) if count else self

    def to(self, device: torch.device | str) -> ReferenceBatch:
        """The same on a device."""
        head: dict[str, Any] = {
            name: None if (part := getattr(self, name)) is None else part.to(device) for name in HEAD
        }
        return replace(self._each(lambda rows: rows.to(device)), **head)

    def _each(self, change: Callable[[Tensor], Tensor]) -> ReferenceBatch:
        """All tensors of rows changed; not the output matrix."""
        present: dict[str, Any] = {name: each for name in OF_ROWS if (each := getattr(self, name)) is not None}
        layers = {layer: change(states) for layer, states in self.layers.items()}
        return replace(self, layers=layers, **{name: change(each) for name, each in present.items()})
