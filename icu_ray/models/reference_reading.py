"""One run of the frozen original model over all rows: its last hidden states, states of layers, and token losses.

    hidden, layers = kept_states(model, rows, batch_size=8)          # on the CPU
    nll = token_nll(model, rows, batch_size=8)

`reference.py` keeps what is read. Whoever calls these has the model in eval mode, without gradients and adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from icu_ray.console.progress import told
from icu_ray.data.examples import TokenRows
from icu_ray.models.hidden import hidden_states, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kept_states(
    model: PreTrainedModel, rows: TokenRows, batch_size: int, layers: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """(N, L, H) last hidden states of all rows, and those of layers, on the CPU."""
    batches = [
        (last.cpu(), {n: s.cpu() for n, s in own.items()}) for last, own in _batches(model, rows, batch_size, layers)
    ]
    return torch.cat([last for last, _ in batches]), {n: torch.cat([own[n] for _, own in batches]) for n in layers}


def distributions_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(N, L, V) float32 of (N, L, H), on the CPU."""
    weight, bias = output_head(model)
    rows = (functional.linear(row.to(weight.device), weight, bias) for row in hidden)
    return torch.stack([torch.softmax(row.float(), -1).cpu() for row in rows])


def _hidden_batches(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Iterator[Tensor]:
    """(b, L, H) last hidden states of successive rows, on the model's device."""
    return (last for last, _ in _batches(model, rows, batch_size))


def _batches(
    model: PreTrainedModel, rows: TokenRows, batch_size: int, layers: Sequence[int] = ()
) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
    """(b, L, H) last hidden states of successive rows and those of layers, on the model's device.

    Whole rows are read, pads too: some are scored (loss.kl_positions=padded, tokens.alignment=reference), and a batch
    as wide as its longest row would round differently beside other rows.
    """
    ids, mask, positions = inputs_of(rows)
    device = output_head(model)[0].device
    for low in range(0, len(ids), batch_size):
        told("reference", low / len(ids))
        part = slice(low, low + batch_size)
        yield hidden_states(
            model,
            ids[part].to(device),
            mask[part].to(device),
            None if positions is None else positions[part].to(device),
            layers,
        )


def token_nll(model: PreTrainedModel, rows: TokenRows, batch_size: int) -> Tensor:
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


def inputs_of(rows: TokenRows) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids, mask and positions, each (N, L) int64."""
    positions = rows.position_ids
    return (
        torch.from_numpy(rows.input_ids.copy()),
        torch.from_numpy(rows.mask.astype(np.int64)),
        None if positions is None else torch.from_numpy(positions),
    )
