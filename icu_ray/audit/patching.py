"""Layer patching: what a model says when a layer is made to put out what another model's layer does.

    states = states_of(retrained, block)                       # of all layers, in one forward
    log_probs(original, block, None), log_probs(original, block, (3, states[3]))       # (N,) each

A block is rows of like length (metrics/answer_scores.py); what pads a row stands behind its end and is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icu_ray.metrics.answer_scores import scored_logits
from icu_ray.metrics.answers import AnswerRow, Floats
from icu_ray.models.hidden import decoder_layers, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

States = dict[int, Tensor]
"""By layer, (M, H) on the CPU: its output at the M positions of a block of rows that predict a scored token."""


def states_of(model: PreTrainedModel, block: Sequence[AnswerRow]) -> States:
    """What each layer of a model puts out where a block's scored tokens are predicted."""
    ids, read, _ = _batch(model, block)
    with torch.inference_mode():
        _, states = hidden_states(model, ids, None, None, range(len(decoder_layers(model))))
        return {layer: each[read].cpu() for layer, each in states.items()}


def log_probs(model: PreTrainedModel, block: Sequence[AnswerRow], patch: tuple[int, Tensor] | None) -> Floats:
    """(N,) nats a token: mean log-probability of each row's scored tokens.

    patch: a layer, and the (M, H) states that it is made to put out where scored tokens are predicted.
    """
    ids, read, labels = _batch(model, block)

    def put_in(module: object, inputs: object, output: Any) -> Any:
        assert patch is not None
        own = output[0] if isinstance(output, tuple) else output
        changed = own.clone()
        changed[read] = patch[1].to(changed)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hook = None if patch is None else decoder_layers(model)[patch[0]].register_forward_hook(put_in)
    try:
        with torch.inference_mode():
            log_p = scored_logits(model, ids, read).float().log_softmax(-1)
            found = log_p.gather(1, labels[:, None])[:, 0].double().cpu().numpy()
    finally:
        if hook is not None:
            hook.remove()
    ends = np.cumsum([len(row.scored) for row in block])[:-1]
    return np.asarray([each.mean() for each in np.split(found, ends)], dtype=np.float64)


def _batch(model: PreTrainedModel, block: Sequence[AnswerRow]) -> tuple[Tensor, Tensor, Tensor]:
    """ids (B, L) int64, filled up behind each row's end; read (B, L) bool, True where a scored token is predicted;
    labels (M,) int64, those tokens."""
    width = max(len(row.ids) for row in block)
    ids = torch.tensor([row.ids + row.ids[:1] * (width - len(row.ids)) for row in block])
    read = torch.zeros(ids.shape, dtype=torch.bool)
    for place, row in enumerate(block):
        read[place, [position - 1 for position in row.scored]] = True
    labels = torch.tensor([row.labels[position] for row in block for position in row.scored])
    return ids.to(model.device), read.to(model.device), labels.to(model.device)
