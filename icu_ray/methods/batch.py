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
from icu_ray.methods.objective import Side
from icu_ray.methods.weights import BatchWeights, Floats

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from icu_ray.models.reference_batch import ReferenceBatch


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
    reference: the original model on these rows.
    alternate_*: of second answers to the targets' prompts, where the method needs them; as of targets.
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
    alternate_ids: Tensor | None = None
    alternate_mask: Tensor | None = None
    alternate_labels: Tensor | None = None
    alternate_weights: Tensor | None = None
    alternate_positions: Tensor | None = None

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
        alternates: tuple[TokenRows, NDArray[np.int64]] | None = None,
    ) -> Batch:
        """The rows `indices` of a sample; row k of `weights` (see BatchWeights.rows) is for indices[k].

        beside: the rows of `pairs` that stand beside them; None: those of the same numbers. narrow: leave out columns
        that all rows pad. alternates: rows of second answers, and which of them belong to `indices`.
        """
        import torch

        chosen = np.asarray(indices, dtype=np.int64)
        others = chosen if beside is None else np.asarray(beside, dtype=np.int64)
        if len(chosen) != len(weights.row):
            raise ValueError(f"{len(chosen)} rows but weights for {len(weights.row)}")

        sides: dict[Side, tuple[TokenRows, NDArray[np.int64], Floats]] = {"target": (targets, chosen, weights.target)}
        if pairs is not None and weights.pair is not None and weights.kl is not None:
            sides["pair"] = (pairs, others, weights.pair)
        if alternates is not None and weights.alternate is not None:
            sides["alternate"] = (*alternates, weights.alternate)
        pads = _common_pads(list(sides.values()), weights.kl if "pair" in sides else None) if narrow else 0
        reference = None if reference is None else reference.without_columns(pads)

        def tensor(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
            own = array[:, pads:] if array.ndim == 2 else array
            return torch.from_numpy(np.ascontiguousarray(own)).to(device=device, dtype=dtype)

        found: dict[str, Tensor | None] = {}
        for side, (rows, which, scale) in sides.items():
            found[f"{side}_ids"] = tensor(rows.input_ids[which], torch.int64)
            found[f"{side}_mask"] = tensor(rows.mask[which], torch.int64)
            found[f"{side}_labels"] = tensor(rows.labels[which], torch.int64)
            found[f"{side}_weights"] = tensor(scale, torch.float32)
            positions = rows.position_ids_of(which)
            found[f"{side}_positions"] = None if positions is None else tensor(positions, torch.int64)
        if "pair" in sides and weights.kl is not None:
            found["kl_weights"] = tensor(weights.kl, torch.float32)
        return Batch(row_weights=tensor(weights.row, torch.float32), reference=reference, **found)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: value.to(device) for name, value in present.items()})

    def __len__(self) -> int:
        return len(self.target_ids)


def _common_pads(sides: Sequence[tuple[TokenRows, NDArray[np.int64], Floats]], kl: Floats | None) -> int:
    """Columns on the left in which no row of a batch has a token or anything that weighs."""
    if sides[0][0].positions != "real":
        return 0
    used = np.zeros(sides[0][0].mask.shape[1], dtype=bool)
    for rows, which, weights in sides:
        used |= rows.mask[which].any(axis=0) | (weights != 0).any(axis=0)
    if kl is not None:
        used |= (kl != 0).any(axis=0)
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
