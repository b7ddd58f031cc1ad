"""Token-level perplexity of rows: exp of the mean negative log-likelihood of all scored tokens together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from icu_ray.console.progress import told
from icu_ray.data.examples import IGNORED_LABEL, TokenRows
from icu_ray.data.positions import position_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def total_nll(model: PreTrainedModel, rows: TokenRows, batch_size: int = 16) -> tuple[float, int]:
    """(summed negative log-likelihood in nats, number of tokens); sums of shares of the rows add up.

    Of rows with a prompt the completion alone counts. Rows of like length share a batch.
    """
    nll, count = 0.0, 0
    positions, scored = rows.position_ids, rows.measured_labels
    # Left out are pads that all rows of a batch have, but where they are positions like any other, or where the first
    # token is scored (tokens.alignment=reference): what a model makes of a pad depends on all columns.
    pads = rows.mask.argmax(axis=1)
    if rows.positions != "real" or bool((scored[np.arange(len(rows)), pads] != IGNORED_LABEL).any()):
        pads = np.zeros(len(rows), dtype=np.int64)
    order = np.argsort(pads, kind="stable")
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            for begin in range(0, len(rows), batch_size):
                told("perplexity", begin / len(rows))
                block = order[begin : begin + batch_size]
                own = slice(int(pads[block[0]]), None)
                ids = torch.from_numpy(rows.input_ids[block, own]).to(model.device)
                mask = torch.from_numpy(rows.mask[block, own].astype(np.int64)).to(model.device)
                labels = torch.from_numpy(scored[block, own]).to(model.device)[:, 1:]
                places = None if positions is None else torch.from_numpy(positions[block, own]).to(model.device)
                options = position_options(model, places)
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits[:, :-1]
                losses = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
                )
                nll += float(losses.double().sum())
                count += int((labels != IGNORED_LABEL).sum())
    finally:
        model.train(was_training)
    return nll, count


def perplexity_of(nll: float, count: int) -> float:
    """exp(nll / count); infinite for a model that gives NaN or overflows."""
    if count == 0 or math.isnan(nll):
        return math.inf
    return math.exp(min(nll / count, 700.0))


def perplexity(model: PreTrainedModel, rows: TokenRows, batch_size: int = 16) -> float:
    """Perplexity of all rows together."""
    return perplexity_of(*total_nll(model, rows, batch_size))
