"""What every unlearning method is given and gives back.

A method turns a `Batch` (rows of targets and pairs with their weights, and the original model's view of the
pairs) into `LossTerms`. Most methods only say their `objective()`; one whose loss is no weighted sum
overrides `loss()`.

    method = methods.get("icu", alpha=0.5, beta=1.0)
    terms = method.loss(model, batch)
    terms.total.backward()

Promise: losses add up. Weights are made once from the whole global batch (`methods/weights.py`), so the
totals and parts of micro batches and ranks are summed, never averaged. Importing this module does not import
torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import LossConfig
from icu_ray.data.examples import TokenRows
from icu_ray.errors import UserError, did_you_mean
from icu_ray.methods.objective import Objective
from icu_ray.methods.weights import BatchWeights

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from icu_ray.models.reference import ReferenceBatch

Setting = float | int | str | bool


@dataclass(frozen=True)
class Batch:
    """B rows of targets and, where the method needs them, of their pairs; L tokens each, left padded.

    target_ids, pair_ids: (B, L) int64; *_mask: (B, L) int64, 1 where a real token stands.
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

    @staticmethod
    def gather(
        targets: TokenRows,
        pairs: TokenRows | None,
        indices: Sequence[int] | NDArray[np.int64],
        weights: BatchWeights,
        reference: ReferenceBatch | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """The rows `indices` of a sample; row k of `weights` (see BatchWeights.rows) is for indices[k]."""
        import torch

        chosen = np.asarray(indices, dtype=np.int64)
        if len(chosen) != len(weights.row):
            raise ValueError(f"{len(chosen)} rows but weights for {len(weights.row)}")

        def tensor(array: NDArray[np.generic], dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)

        def side(rows: TokenRows, scale: NDArray[np.float64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return (
                tensor(rows.input_ids[chosen], torch.int64),
                tensor(rows.mask[chosen], torch.int64),
                tensor(rows.labels[chosen], torch.int64),
                tensor(scale, torch.float32),
            )

        row_weights = tensor(weights.row, torch.float32)
        if pairs is None or weights.pair is None or weights.kl is None:
            return Batch(*side(targets, weights.target), row_weights, reference=reference)
        return Batch(
            *side(targets, weights.target),
            row_weights,
            *side(pairs, weights.pair),
            tensor(weights.kl, torch.float32),
            reference,
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: value.to(device) for name, value in present.items()})

    def __len__(self) -> int:
        return len(self.target_ids)


class LossTerms(NamedTuple):
    """What a batch (or micro batch, or one rank's share) adds to the loss of its global batch.

    total: scalar that carries the gradient. A framework that averages gradients over ranks or accumulation
    steps
        (DeepSpeed does both) must be given total times their number.
    parts: unscaled, detached value of each term; sums over micro batches and ranks are the global values.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Method(ABC):
    """An unlearning method with its hyper-parameters: alpha weighs learning, beta the divergence (equation
    6).

    A subclass names itself, lists the settings it understands with their defaults, and gives its
    `objective()`.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Setting]] = {}
    uses_alpha: ClassVar[bool] = True
    """False where alpha does not change the loss, so that a plan can tell equal cells."""
    uses_beta: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    """False for the model as it is, which is measured and nothing else."""

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 1.0,
        settings: Mapping[str, Setting] | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        given = dict(settings or {})
        for key, value in given.items():
            if key not in self.defaults:
                known = ", ".join(self.defaults) or "none"
                raise UserError(
                    f"method {self.name}: unknown setting '{key}'{did_you_mean(key, self.defaults)}; known: {known}"
                )
            _check_type(self.name, key, value, self.defaults[key])
        self.alpha = alpha
        self.beta = beta
        self.settings: dict[str, Setting] = {**self.defaults, **given}
        self.options = loss or LossConfig()

    @abstractmethod
    def objective(self) -> Objective:
        """The loss as a weighted sum of terms, to be minimised."""

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Value and gradient-carrying total of `batch`."""
        from icu_ray.methods.losses import evaluate

        return evaluate(self.objective(), model, batch, self.options)

    @property
    def needs_pairs(self) -> bool:
        """Whether batches must carry paired rows."""
        return self.objective().needs_pairs

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry the original model's distributions on the pairs."""
        return self.objective().needs_reference

    @property
    def needs_reference_nll(self) -> bool:
        """Whether the reference must hold the original model's token losses on targets and pairs."""
        return False


def _check_type(method: str, key: str, value: Setting, default: Setting) -> None:
    wanted: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UserError(
            f"method {method}: setting '{key}' must be {type(default).__name__}, found {value!r} (default {default!r})"
        )
