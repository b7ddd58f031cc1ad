"""The frozen original model, theta_0 of equation (4), reduced to what training asks of it.

The authors keep its probabilities on every pair token: 128 x 200 x 50,257 floats, 5.1 GB. They are a product
of last hidden states and the output matrix, so the states (79 MB) and a frozen copy of the matrix (154 MB,
one per model) say the same, and the product is made again for the tokens of a chunk.

    reference = build_reference(model, pairs)                    # before training
    reference.save(folder); save_head(model, head)               # safetensors
    reference = Reference.load(folder, head)                     # mapped into memory
    reference.batch(indices, device)                             # what a training batch carries

Promise: tensors keep the model's own precision; loading maps the file, so ranks on a node share its pages.
Alternatives are for comparison: cache="probs" is the authors' dense form, "recompute" keeps a whole second
model. Of a model with an adapter the original is the model with the adapter off: there "recompute" keeps nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from icu_ray.console.progress import told
from icu_ray.data.examples import TokenRows
from icu_ray.models.adapters import adapters_off, has_adapter
from icu_ray.models.hidden import check_seam, last_hidden, linear_into, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Cache = Literal["hidden", "probs", "recompute", "none"]
ROWS_FILE = "rows.safetensors"
"""What grows with the sample: the cache proper."""
HEAD_FILE = "head.safetensors"
"""The frozen output matrix: one file for all samples of a model, and one copy in a node's memory for all ranks."""
HEAD = ("weight", "bias")


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

    def scores_into(self, out: Tensor, where: Tensor) -> Tensor:
        """out (C, V) float32 = log p up to a constant a row, at flat positions b * L + t; returns `out`."""
        if self.probs is not None:
            # Dense probabilities underflow to 0; the smallest normal number in its place weighs nothing either.
            smallest = torch.finfo(out.dtype).tiny
            return torch.index_select(self.probs.flatten(0, 1), 0, where, out=out).clamp_(min=smallest).log_()
        if self.hidden is None or self.weight is None:
            raise ValueError("the reference holds no distributions, only summed log-probabilities")
        return linear_into(out, self.hidden.flatten(0, 1)[where], self.weight, self.bias)

    def without_columns(self, count: int) -> ReferenceBatch:
        """The same without its first `count` columns, which are pads."""
        if not count:
            return self
        kept = {name: getattr(self, name) for name in ("hidden", "probs", "target_nll", "pair_nll")}
        return replace(self, **{name: each[:, count:].contiguous() for name, each in kept.items() if each is not None})

    def to(self, device: torch.device | str) -> ReferenceBatch:
        """The same on a device."""
        tensors = (self.hidden, self.weight, self.bias, self.probs, self.target_nll, self.pair_nll)
        return ReferenceBatch(*(None if tensor is None else tensor.to(device) for tensor in tensors))


@dataclass(frozen=True)
class Reference:
    """The original model on all N pairs of a sample; shapes as in ReferenceBatch with N for B.

    target_nll has a row for each target, which are fewer or more than the pairs where those are drawn.
    """

    cache: Cache
    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    probs: Tensor | None = None
    target_nll: Tensor | None = None
    pair_nll: Tensor | None = None
    pair_ids: Tensor | None = None
    pair_mask: Tensor | None = None
    pair_positions: Tensor | None = None
    model: PreTrainedModel | None = field(default=None, repr=False)
    """For cache="recompute" alone: the frozen copy, or the model itself where it is trained by an adapter."""
    _heads: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False, compare=False)

    def batch(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        device: torch.device | str = "cpu",
        beside: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> ReferenceBatch:
        """The targets `indices` and the pairs `beside` them on `device`; None: pairs of the same numbers.

        The output matrix is moved there once and then shared.
        """
        targets = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        chosen = targets if beside is None else torch.as_tensor(np.asarray(beside, dtype=np.int64))

        def rows(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen].to(device)

        nlls = (None if self.target_nll is None else self.target_nll[targets].to(device), rows(self.pair_nll))
        if self.cache == "probs":
            return ReferenceBatch(None, None, None, rows(self.probs), *nlls)
        if self.cache == "none":
            return ReferenceBatch(None, None, None, None, *nlls)
        if self.cache == "hidden":
            return ReferenceBatch(rows(self.hidden), *self._head(device), None, *nlls)
        if self.model is None:
            raise ValueError("cache='recompute' needs the original model: Reference.load(folder, model=model)")
        self.model.to(device)  # type: ignore[arg-type]
        ids, mask, positions = rows(self.pair_ids), rows(self.pair_mask), rows(self.pair_positions)
        assert ids is not None
        with torch.no_grad(), adapters_off(self.model):
            hidden = last_hidden(self.model, ids, mask, positions)
        head = output_head(self.model) if self.weight is None else self._head(device)
        return ReferenceBatch(hidden, *head, None, *nlls)

    def with_own_head(self) -> Reference:
        """The same with a copy of the frozen model's output matrix: what is below may then be divided among ranks."""
        assert self.model is not None
        weight, bias = output_head(self.model)
        return replace(self, weight=weight.clone(), bias=None if bias is None else bias.clone())

    def _head(self, device: torch.device | str) -> tuple[Tensor, Tensor | None]:
        key = str(device)
        if key not in self._heads:
            assert self.weight is not None
            self._heads[key] = (self.weight.to(device), None if self.bias is None else self.bias.to(device))
        return self._heads[key]

    def __len__(self) -> int:
        rows = (self.hidden, self.probs, self.pair_ids, self.target_nll, self.pair_nll)
        return next(len(tensor) for tensor in rows if tensor is not None)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        names = ("hidden", *HEAD, "probs", "target_nll", "pair_nll", "pair_ids", "pair_mask", "pair_positions")
        found = {name: getattr(self, name) for name in names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, a second model's parameters included."""
        held = sum(t.nbytes for t in self.tensors().values())
        if self.model is None or has_adapter(self.model):
            return held
        return held + sum(p.nbytes for p in self.model.parameters())

    def save(self, folder: Path) -> None:
        """Write the rows' part, as safetensors, into an existing folder; the matrix is `save_head`'s."""
        from safetensors.torch import save_file

        rows = {name: tensor.contiguous() for name, tensor in self.tensors().items() if name not in HEAD}
        save_file(rows, folder / ROWS_FILE, metadata={"cache": self.cache})

    @staticmethod
    def load(folder: Path, head: Path | None = None, model: PreTrainedModel | None = None) -> Reference:
        """Map what `save` wrote; cache="hidden" needs the folder `head` of `save_head`.

        cache="recompute" copies and freezes `model`, still the original one; one with an adapter is kept as it is.
        """
        from safetensors import safe_open

        tensors: dict[str, Tensor] = {}
        metadata: dict[str, str] = {}
        for path in (folder / ROWS_FILE, *(() if head is None else (head / HEAD_FILE,))):
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata |= file.metadata() or {}
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        cache = cast(Cache, metadata["cache"])
        frozen = _frozen(model) if cache == "recompute" and model is not None else None
        return Reference(
            cache=cache,
            hidden=tensors.get("hidden"),
            weight=tensors.get("weight"),
            bias=tensors.get("bias"),
            probs=tensors.get("probs"),
            target_nll=tensors.get("target_nll"),
            pair_nll=tensors.get("pair_nll"),
            pair_ids=tensors.get("pair_ids"),
            pair_mask=tensors.get("pair_mask"),
            pair_positions=tensors.get("pair_positions"),
            model=frozen,
        )


def save_head(model: PreTrainedModel, folder: Path) -> None:
    """Write the output matrix (and bias) of the original model into an existing folder: once for all its samples."""
    from safetensors.torch import save_file

    found = dict(zip(HEAD, output_head(model), strict=True))
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items() if tensor is not None}
    save_file(kept, folder / HEAD_FILE)


def build_reference(
    model: PreTrainedModel,
    pairs: TokenRows | None,
    cache: Cache = "hidden",
    *,
    targets: TokenRows | None = None,
    batch_size: int = 8,
) -> Reference:
    """Run the original model once over the pairs; with `targets` also keep the token losses of both.

    A method needs cache "none" unless `method.needs_reference`, targets if `method.needs_reference_nll`, no
    pairs unless `method.needs_pairs`. The model is read in eval mode and left as it was. Tensors are copies
    on the CPU: training does not change them.
    """
    check_seam(model)
    weight, bias = output_head(model)
    training = model.training
    model.train(False)
    try:
        with torch.no_grad(), adapters_off(model):
            kept = Reference(
                cache,
                target_nll=None if targets is None else _token_nll(model, targets, batch_size),
                pair_nll=None if targets is None or pairs is None else _token_nll(model, pairs, batch_size),
            )
            if cache == "none":
                return kept
            if pairs is None:
                raise ValueError(f"cache={cache!r} keeps the original model's view of pairs, but there are none")
            if cache == "recompute":
                ids, mask, positions = _inputs(pairs)
                return replace(kept, pair_ids=ids, pair_mask=mask, pair_positions=positions, model=_frozen(model))
            states = _hidden_batches(model, pairs, batch_size)
            if cache == "probs":
                rows = (functional.linear(row, weight, bias) for batch in states for row in batch)
                return replace(kept, probs=torch.stack([torch.softmax(row.float(), -1).cpu() for row in rows]))
            hidden = torch.cat([batch.cpu() for batch in states])
    finally:
        model.train(training)
    frozen = weight.detach().cpu().clone(), None if bias is None else bias.detach().cpu().clone()
    return replace(kept, hidden=hidden, weight=frozen[0], bias=frozen[1])


def _hidden_batches(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Iterator[Tensor]:
    """(b, L, H) last hidden states of successive rows, on the model's device.

    Whole rows are read, pads too: some are scored (loss.kl_positions=padded, tokens.alignment=reference), and a batch
    as wide as its longest row would round differently beside other rows.
    """
    ids, mask, positions = _inputs(rows)
    device = output_head(model)[0].device
    for low in range(0, len(ids), batch_size):
        told("reference", low / len(ids))
        part = slice(low, low + batch_size)
        yield last_hidden(
            model,
            ids[part].to(device),
            mask[part].to(device),
            None if positions is None else positions[part].to(device),
        )


def _token_nll(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Tensor:
    """(N, L) float32; a row at a time over the vocabulary."""
    weight, bias = output_head(model)
    labels = torch.from_numpy(rows.labels)
    result = torch.zeros(labels.shape, dtype=torch.float32)
    states = (row for batch in _hidden_batches(model, rows, batch_size) for row in batch)
    for index, row in enumerate(states):
        scores = functional.linear(row[:-1], weight, bias).float()
        wanted = labels[index, 1:].to(scores.device)
        result[index, 1:] = functional.cross_entropy(scores, wanted, reduction="none").cpu()
    return result


def _inputs(rows: TokenRows) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, mask and positions, each (N, L) int64."""
    positions = rows.position_ids
    return (
        torch.from_numpy(rows.input_ids.copy()),
        torch.from_numpy(rows.mask.astype(np.int64)),
        None if positions is None else torch.from_numpy(positions),
    )


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    if has_adapter(model):
        return model  # `batch` switches the adapter off
    frozen: PreTrainedModel = copy.deepcopy(model)
    frozen.train(False).requires_grad_(False)
    return frozen
