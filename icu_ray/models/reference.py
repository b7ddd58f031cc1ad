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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icu_ray.data.examples import TokenRows
from icu_ray.models.adapters import adapters_off, has_adapter
from icu_ray.models.hidden import check_seam, hidden_states, output_head
from icu_ray.models.reference_batch import HEAD, OF_ROWS, ReferenceBatch
from icu_ray.models.reference_reading import distributions_of, inputs_of, kept_states, token_nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Cache = Literal["hidden", "probs", "recompute", "none"]
ROWS_FILE = "rows.safetensors"
"""What grows with the sample: the cache proper."""
HEAD_FILE = "head.safetensors"
"""The frozen output matrix: one file for all samples of a model, and one copy in a node's memory for all ranks."""
_INPUTS = tuple(f"{side}_{part}" for side in ("pair", "target") for part in ("ids", "mask", "positions"))
_LAYER, _ANSWERS = "layer.", "answers."
_PARTS = ("ids", "mask", "positions")


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
    alternate_nll: Tensor | None = None
    target_hidden: Tensor | None = None
    target_probs: Tensor | None = None
    layers: Mapping[int, Tensor] = field(default_factory=dict)
    live_layers: tuple[int, ...] = ()
    """With cache="recompute" these are read of the frozen copy in place of `layers`."""
    answer_nll: Mapping[str, Tensor] = field(default_factory=dict)
    """Of second answers of each kind, (rows, L); `with_answers` takes one of them for a trial."""
    pair_ids: Tensor | None = None
    pair_mask: Tensor | None = None
    pair_positions: Tensor | None = None
    target_ids: Tensor | None = None
    target_mask: Tensor | None = None
    target_positions: Tensor | None = None
    model: PreTrainedModel | None = field(default=None, repr=False)
    """For cache="recompute" alone: the frozen copy, or the model itself where it is trained by an adapter."""
    _heads: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False, compare=False)

    def batch(
        self,
        indices: Sequence[int] | NDArray[np.int64],
        device: torch.device | str = "cpu",
        beside: Sequence[int] | NDArray[np.int64] | None = None,
        answers: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> ReferenceBatch:
        """The targets `indices` and the pairs `beside` them on `device`; None: pairs of the same numbers.

        answers: which second answers belong to the targets. The output matrix is moved there once and then shared.
        """
        targets = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        pairs = targets if beside is None else torch.as_tensor(np.asarray(beside, dtype=np.int64))

        def rows(name: str, chosen: Tensor) -> Tensor | None:
            tensor: Tensor | None = getattr(self, name)
            return None if tensor is None else tensor[chosen].to(device)

        found = ReferenceBatch(
            hidden=rows("hidden", pairs),
            probs=rows("probs", pairs),
            target_nll=rows("target_nll", targets),
            pair_nll=rows("pair_nll", pairs),
            alternate_nll=None if answers is None else rows("alternate_nll", torch.as_tensor(np.asarray(answers))),
            target_hidden=rows("target_hidden", targets),
            target_probs=rows("target_probs", targets),
            layers={layer: states[pairs].to(device) for layer, states in self.layers.items()},
        )
        if self.cache == "hidden":
            return _with_head(found, *self._head(device))
        if self.cache != "recompute":
            return found
        if self.model is None:
            raise ValueError("cache='recompute' needs the original model: Reference.load(folder, model=model)")
        self.model.to(device)  # type: ignore[arg-type]
        for side, chosen, kept in (("pair", pairs, "hidden"), ("target", targets, "target_hidden")):
            ids, mask, positions = (rows(f"{side}_{part}", chosen) for part in ("ids", "mask", "positions"))
            if ids is None:
                continue
            with torch.no_grad(), adapters_off(self.model):
                layers = self.live_layers if side == "pair" else ()
                hidden, states = hidden_states(self.model, ids, mask, positions, layers)
            found = replace(found, **{kept: hidden}, layers={**found.layers, **states})
        return _with_head(found, *(output_head(self.model) if self.weight is None else self._head(device)))

    def with_answers(self, kind: str) -> Reference:
        """The same for a method whose second answers are of this kind."""
        return replace(self, alternate_nll=self.answer_nll.get(kind))

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
        names = (*OF_ROWS, "pair_ids", "target_ids")
        rows = (*(getattr(self, name) for name in names), *self.layers.values())
        return next(len(tensor) for tensor in rows if tensor is not None)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, by name."""
        found = {name: getattr(self, name) for name in (*HEAD, *OF_ROWS, *_INPUTS)}
        layers = {f"{_LAYER}{layer}": states for layer, states in self.layers.items()}
        layers |= {f"{_ANSWERS}{kind}": nll for kind, nll in self.answer_nll.items()}
        return {name: tensor for name, tensor in found.items() if tensor is not None} | layers

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
        told: dict[str, str] = {"cache": self.cache}
        if self.live_layers:
            told["live_layers"] = ",".join(map(str, self.live_layers))
        save_file(rows, folder / ROWS_FILE, metadata=told)

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
        live = metadata.get("live_layers", "")
        return Reference(
            cache=cache,
            layers={int(n.removeprefix(_LAYER)): t for n, t in tensors.items() if n.startswith(_LAYER)},
            answer_nll={n.removeprefix(_ANSWERS): t for n, t in tensors.items() if n.startswith(_ANSWERS)},
            live_layers=tuple(int(layer) for layer in live.split(",") if layer),
            model=frozen,
            **{name: tensors.get(name) for name in (*HEAD, *OF_ROWS, *_INPUTS)},  # type: ignore[arg-type]
        )


def _with_head(rows: ReferenceBatch, weight: Tensor, bias: Tensor | None) -> ReferenceBatch:
    return replace(rows, weight=weight, bias=bias)


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
    compared: TokenRows | None = None,
    answers: Mapping[str, TokenRows] | None = None,
    layers: Sequence[int] = (),
    distributions: bool = True,
) -> Reference:
    """Run the original model once over the pairs; with `targets` also keep the token losses of both.

    A method needs cache "none" unless its objective needs the original model's distributions or layers, targets if it
    needs token losses, no pairs unless it needs pairs. compared: targets of which distributions are kept. answers:
    second answers by kind, of which token losses are kept. layers: whose states on the pairs are kept. distributions:
    False where none on the pairs are needed. The model is read in eval mode and left as it was. Tensors are copies on
    the CPU: training does not change them.
    """
    check_seam(model)
    weight, bias = output_head(model)
    training = model.training
    model.train(False)
    try:
        with torch.no_grad(), adapters_off(model):
            kept = Reference(
                cache,
                target_nll=None if targets is None else token_nll(model, targets, batch_size),
                pair_nll=None if targets is None or pairs is None else token_nll(model, pairs, batch_size),
                answer_nll={kind: token_nll(model, rows, batch_size) for kind, rows in (answers or {}).items()},
            )
            if cache == "none":
                if layers and pairs is not None:
                    kept = replace(kept, layers=kept_states(model, pairs, batch_size, layers)[1])
                return kept
            if pairs is None and (distributions or layers) and compared is None:
                raise ValueError(f"cache={cache!r} keeps the original model's view of pairs, but there are none")
            read = pairs if distributions or layers else None
            if cache == "recompute":
                inputs = {"pair": read, "target": compared}
                told = {side: inputs_of(rows) for side, rows in inputs.items() if rows is not None}
                parts = {f"{side}_{p}": t for side, ts in told.items() for p, t in zip(_PARTS, ts, strict=True)}
                return replace(kept, live_layers=tuple(layers), model=_frozen(model), **parts)  # type: ignore[arg-type]
            hidden, states = (None, {}) if read is None else kept_states(model, read, batch_size, layers)
            sides = {"": hidden if distributions else None}
            sides["target_"] = None if compared is None else kept_states(model, compared, batch_size)[0]
            if cache == "probs":
                dense = {
                    f"{side}probs": distributions_of(model, rows) for side, rows in sides.items() if rows is not None
                }
                return replace(kept, layers=states, **dense)  # type: ignore[arg-type]
    finally:
        model.train(training)
    frozen = weight.detach().cpu().clone(), None if bias is None else bias.detach().cpu().clone()
    found = {f"{side}hidden": rows for side, rows in sides.items()}
    return replace(kept, layers=states, weight=frozen[0], bias=frozen[1], **found)  # type: ignore[arg-type]


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    if has_adapter(model):
        return model  # `batch` switches the adapter off
    frozen: PreTrainedModel = copy.deepcopy(model)
    frozen.train(False).requires_grad_(False)
    return frozen
