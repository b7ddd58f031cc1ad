"""The frozen original model, theta_0 of equation (4), reduced to what training asks of it.

The authors keep its probabilities on every pair token: 128 x 200 x 50,257 floats, 5.1 GB. They are a product
of last hidden states and the output matrix, so the states (79 MB) and a frozen copy of the matrix (154 MB,
one per model) say the same, and the product is made again for the tokens of a chunk.

    reference = build_reference(model, pairs)                    # before training
    reference.save(folder); reference = Reference.load(folder)   # safetensors, mapped into memory
    reference.batch(indices, device)                             # what a training batch carries

Promise: tensors keep the model's own precision; loading maps the file, so ranks on a node share its pages.
Alternatives are for comparison: cache="probs" is the authors' dense form, "recompute" keeps a whole second
model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from icu_ray.data.examples import TokenRows
from icu_ray.models.hidden import check_seam, last_hidden, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Cache = Literal["hidden", "probs", "recompute"]
TENSORS_FILE = "reference.safetensors"


@dataclass(frozen=True)
class ReferenceBatch:
    """The original model on B pairs of L tokens: either hidden, weight (and bias), or dense probs.

    hidden: (B, L, H); weight: (V, H); bias: (V,) or None; probs: (B, L, V) float32.
    target_nll, pair_nll: (B, L) float32, [b, t] = -log P_theta0(token t | tokens before t), 0 where nothing
    is scored.
    """

    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    probs: Tensor | None = None
    target_nll: Tensor | None = None
    pair_nll: Tensor | None = None

    def log_probabilities(self, where: Tensor) -> Tensor:
        """(C, V) float32 log p at flat positions b * L + t; fresh memory that the caller may overwrite."""
        if self.probs is not None:
            return self.probs.flatten(0, 1)[where].log()
        scores = self._scores(where)
        return scores.sub_(scores.logsumexp(-1, keepdim=True))

    def probabilities(self, where: Tensor) -> Tensor:
        """(C, V) float32 p at flat positions b * L + t; fresh memory that the caller may overwrite."""
        if self.probs is not None:
            return self.probs.flatten(0, 1)[where]
        return torch.softmax(self._scores(where), -1)

    def _scores(self, where: Tensor) -> Tensor:
        if self.hidden is None or self.weight is None:
            raise ValueError("the reference holds no distributions, only summed log-probabilities")
        return functional.linear(self.hidden.flatten(0, 1)[where], self.weight, self.bias).float()

    def to(self, device: torch.device | str) -> ReferenceBatch:
        """The same on a device."""
        tensors = (self.hidden, self.weight, self.bias, self.probs, self.target_nll, self.pair_nll)
        return ReferenceBatch(*(None if tensor is None else tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class Reference:
    """The original model on all N pairs of a sample; shapes as in ReferenceBatch with N for B."""

    cache: Cache
    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    probs: Tensor | None = None
    target_nll: Tensor | None = None
    pair_nll: Tensor | None = None
    pair_ids: Tensor | None = None
    pair_mask: Tensor | None = None
    model: PreTrainedModel | None = field(default=None, repr=False)
    """The frozen copy, for cache="recompute" alone."""
    _heads: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False, compare=False)

    def batch(
        self, indices: Sequence[int] | NDArray[np.int64], device: torch.device | str = "cpu"
    ) -> ReferenceBatch:
        """The pairs `indices` on `device`; the output matrix is moved there once and then shared."""
        chosen = torch.as_tensor(np.asarray(indices, dtype=np.int64))

        def rows(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen].to(device)

        nlls = (rows(self.target_nll), rows(self.pair_nll))
        if self.cache == "probs":
            return ReferenceBatch(None, None, None, rows(self.probs), *nlls)
        if self.cache == "hidden":
            return ReferenceBatch(rows(self.hidden), *self._head(device), None, *nlls)
        if self.model is None:
            raise ValueError("cache='recompute' needs the original model: Reference.load(folder, model)")
        self.model.to(device)  # type: ignore[arg-type]
        ids, mask = rows(self.pair_ids), rows(self.pair_mask)
        assert ids is not None
        with torch.no_grad():
            hidden = last_hidden(self.model, ids, mask)
        return ReferenceBatch(hidden, *output_head(self.model), None, *nlls)

    def _head(self, device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        key = str(device)
        if key not in self._heads:
            assert self.weight is not None
            self._heads[key] = (self.weight.to(device), None if self.bias is None else self.bias.to(device))
        return self._heads[key]

    def __len__(self) -> int:
        return next(
            len(t) for t in (self.hidden, self.probs, self.pair_ids, self.target_nll) if t is not None
        )

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        names = ("hidden", "weight", "bias", "probs", "target_nll", "pair_nll", "pair_ids", "pair_mask")
        found = {name: getattr(self, name) for name in names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, a second model's parameters included."""
        held = sum(t.nbytes for t in self.tensors().values())
        return held if self.model is None else held + sum(p.nbytes for p in self.model.parameters())

    def save(self, folder: Path) -> None:
        """Write one safetensors file into an existing folder."""
        from safetensors.torch import save_file

        tensors = {name: tensor.contiguous() for name, tensor in self.tensors().items()}
        save_file(tensors, folder / TENSORS_FILE, metadata={"icu_ray": json.dumps({"cache": self.cache})})

    @staticmethod
    def load(folder: Path, model: PreTrainedModel | None = None) -> Reference:
        """Map what `save` wrote; cache="recompute" copies and freezes `model`, still the original one."""
        from safetensors import safe_open

        with safe_open(folder / TENSORS_FILE, framework="pt", device="cpu") as file:
            cache: Cache = json.loads(file.metadata()["icu_ray"])["cache"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        reference = Reference(cache)
        frozen = _frozen(model) if cache == "recompute" and model is not None else None
        return replace(reference, **tensors, model=frozen)


def build_reference(
    model: PreTrainedModel,
    pairs: TokenRows,
    cache: Cache = "hidden",
    *,
    targets: TokenRows | None = None,
    batch_size: int = 8,
) -> Reference:
    """Run the original model once over the pairs; with `targets` also keep token losses of both (dpo, npo).

    The model is read in eval mode and left as it was. Tensors are copies on the CPU: training does not change
    them.
    """
    check_seam(model)
    weight, bias = output_head(model)
    device, training = weight.device, model.training
    ids, mask = _ids_and_mask(pairs)
    hidden: list[Tensor] = []
    probs: list[Tensor] = []
    nlls: dict[str, Tensor] = {}
    model.train(False)
    try:
        with torch.no_grad():
            if cache != "recompute":
                for low in range(0, len(ids), batch_size):
                    part = slice(low, low + batch_size)
                    states = last_hidden(model, ids[part].to(device), mask[part].to(device))
                    if cache == "hidden":
                        hidden.append(states.cpu())
                    else:
                        probs += [
                            torch.softmax(functional.linear(row, weight, bias).float(), -1).cpu()
                            for row in states
                        ]
            if targets is not None:
                for name, rows in (("target_nll", targets), ("pair_nll", pairs)):
                    nlls[name] = _token_nll(model, rows, batch_size)
    finally:
        model.train(training)
    kept = Reference(cache, target_nll=nlls.get("target_nll"), pair_nll=nlls.get("pair_nll"))
    if cache == "recompute":
        return replace(kept, pair_ids=ids, pair_mask=mask, model=_frozen(model))
    if cache == "probs":
        return replace(kept, probs=torch.stack(probs))
    frozen = weight.detach().cpu().clone(), None if bias is None else bias.detach().cpu().clone()
    return replace(kept, hidden=torch.cat(hidden), weight=frozen[0], bias=frozen[1])


def _token_nll(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Tensor:
    """(N, L) float32; a row at a time over the vocabulary."""
    weight, bias = output_head(model)
    ids, mask = _ids_and_mask(rows)
    labels = torch.from_numpy(rows.labels)
    result = torch.zeros(ids.shape, dtype=torch.float32)
    for low in range(0, len(ids), batch_size):
        part = slice(low, low + batch_size)
        states = last_hidden(model, ids[part].to(weight.device), mask[part].to(weight.device))
        for index, row in enumerate(states, start=low):
            scores = functional.linear(row[:-1], weight, bias).float()
            wanted = labels[index, 1:].to(scores.device)
            result[index, 1:] = functional.cross_entropy(scores, wanted, reduction="none").cpu()
    return result


def _ids_and_mask(rows: TokenRows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows.input_ids.copy()), torch.from_numpy(rows.mask.astype(np.int64))


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    frozen: PreTrainedModel = copy.deepcopy(model)
    frozen.train(False).requires_grad_(False)
    return frozen
