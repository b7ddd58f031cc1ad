"""What a method is given and gives back: a `Batch` of targets and pairs with their weights, and its `LossTerms`.

    batch = Batch.gather(targets, pairs, rows, weights, reference.batch(rows, device), device)

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icu_ray.data.examples import TokenRows
from icu_ray.methods.weights import BatchWeights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from icu_ray.models.reference import ReferenceBatch


@dataclass(frozen=True)
class Batch:
    """B rows of targets and, where the method needs them, of their pairs; L tokens each, left padded.

    L is the longest row's of the batch, where positions count real tokens alone: pads that all rows have are left out.

    target_ids, pair_ids: (B, L) int64; *_mask: (B, L) int64, 1 where a real token stands.
    target_positions, pair_positions: (B, L) int64 as of `TokenRows.position_ids`, or None.
    target_labels, pair_labels: (B, L) int64 in the Hugging Face convention (not shifted, -100 is never
    scored).
    target_weights, pair_weights: (B, L) float32; [b, t] multiplies -log P(label[b, t] | tokens before t).
    kl_weights: (B, L) float32; [b, t] multiplies the divergence of the distributions *after* pair token t.
    row_weights: (B,) float32, 1 / (active rows of the global batch) for an active row, else 0.
    reference: the original model on these pairs.
    """

    target_ids: Tensor
    target_mask: Tensor
    target_labels: Tensor
    target_weights: Tensor
    row_weights: Tensor
    pair_ids: Tensor | None = None
    pair_mask: Tensor | None = None
    pair_labels: Tensor | None = None
    pair_weights: Tensor | None = None
    kl_weights: Tensor | None = None
    reference: ReferenceBatch | None = None
    target_positions: Tensor | None = None
    pair_positions: Tensor | None = None

    @staticmethod
    def gather(
        targets: TokenRows,
        pairs: TokenRows | None,
        indices: Sequence[int] | NDArray[np.int64],
        weights: BatchWeights,
        reference: ReferenceBatch | None = None,
        device: torch.device | str = "cpu",
        beside: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        narrow: bool = True,
    ) -> Batch:
        """The rows `indices` of a sample; row k of `weights` (see BatchWeights.rows) is for indices[k].

        beside: the rows of `pairs` that stand beside them; None: those of the same numbers. narrow: leave out columns
        that all rows pad.
        """
        import torch

        chosen = np.asarray(indices, dtype=np.int64)
        others = chosen if beside is None else np.asarray(beside, dtype=np.int64)
        if len(chosen) != len(weights.row):
            raise ValueError(f"{len(chosen)} rows but weights for {len(weights.row)}")

        pads = _common_pads(targets, pairs, chosen, others, weights) if narrow else 0
        reference = None if reference is None else reference.without_columns(pads)

        def tensor(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
            own = array[:, pads:] if array.ndim == 2 else array
            return torch.from_numpy(np.ascontiguousarray(own)).to(device=device, dtype=dtype)

        def side(
            rows: TokenRows, which: NDArray[np.int64], scale: NDArray[np.float64]
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return (
                tensor(rows.input_ids[which], torch.int64),
                tensor(rows.mask[which], torch.int64),
                tensor(rows.labels[which], torch.int64),
                tensor(scale, torch.float32),
            )

        def positions(rows: TokenRows, which: NDArray[np.int64]) -> Tensor | None:
            found = rows.position_ids_of(which)
            return None if found is None else tensor(found, torch.int64)

        row_weights = tensor(weights.row, torch.float32)
        if pairs is None or weights.pair is None or weights.kl is None:
            return Batch(
                *side(targets, chosen, weights.target),
                row_weights,
                reference=reference,
                target_positions=positions(targets, chosen),
            )
        return Batch(
            *side(targets, chosen, weights.target),
            row_weights,
            *side(pairs, others, weights.pair),
            tensor(weights.kl, torch.float32),
            reference,
            positions(targets, chosen),
            positions(pairs, others),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: value.to(device) for name, value in present.items()})

    def __len__(self) -> int:
        return len(self.target_ids)


def _common_pads(
    targets: TokenRows,
    pairs: TokenRows | None,
    chosen: NDArray[np.int64],
    others: NDArray[np.int64],
    weights: BatchWeights,
) -> int:
    """Columns on the left in which no row of a batch has a token or anything that weighs."""
    if targets.positions != "real":
        return 0
    used = targets.mask[chosen].any(axis=0) | (weights.target != 0).any(axis=0)
    if pairs is not None and weights.pair is not None and weights.kl is not None:
        used |= pairs.mask[others].any(axis=0) | (weights.pair != 0).any(axis=0) | (weights.kl != 0).any(axis=0)
    return max(int(used.argmax()) - 1, 0)  # a label is predicted at the column before it


class LossTerms(NamedTuple):
    """What a batch (or micro batch, or one rank's share) adds to the loss of its global batch.

    total: scalar that carries the gradient. A framework that averages gradients over ranks or accumulation
    steps
        (DeepSpeed does both) must be given total times their number.
    parts: unscaled, detached value of each term; sums over micro batches and ranks are the global values.
    """

    total: Tensor
    parts: dict[str, Tensor]
