"""One teacher-forced forward a distinct row, and from it all that the measures of an answer need.

    rows = [AnswerRow.after(ids, given=len(prompt_ids)) for ids in whole]
    scores = answer_scores(model, rows)                  # probability, truth ratio, EM, ES and membership read these

Rows of like length share a forward and begin in its first column. What pads a row stands behind its end, where a causal
model does not look from before, so that a row's numbers do not depend on its batch but for rounding, and positions are
those of the row alone. The output matrix is applied to the scored places only.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from icu_ray.console.progress import told
from icu_ray.metrics.answers import AnswerRow, AnswerScores
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.metrics.greedy_decoding import greedy_tokens
from icu_ray.metrics.kv_cache import LOGITS_AT_ONCE, TOKENS_AT_ONCE_ON_CPU

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS_AT_ONCE = 16 * 1024
"""Tokens of a forward on a GPU, pads included."""
LOGITS_ON_A_GPU = 512 * 1024 * 1024
"""Numbers (scored tokens x vocabulary) of a forward on a GPU: 1 GB in bfloat16. On a CPU: LOGITS_AT_ONCE."""


def answer_scores(
    model: PreTrainedModel,
    rows: Sequence[AnswerRow],
    *,
    conventions: Conventions = DEFINED,
    pad_id: int | None = None,
    tokens_at_once: int | None = None,
) -> list[AnswerScores]:
    """The scores of every row, in their order; the model is put into eval mode for it and back.

    Equal rows are read once. pad_id: needed with `mask="pad_id"` alone, then no token with that id is attended to.
    tokens_at_once: bound on the tokens of a forward, pads included; a longer row has a forward of its own. ValueError
    without the pad that the mask needs.
    """
    if conventions.mask == "pad_id" and pad_id is None:
        raise ValueError("mask='pad_id' needs the id of the pad")
    masked = pad_id if conventions.mask == "pad_id" else None
    places: dict[AnswerRow, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    distinct = list(places)
    found: list[AnswerScores | None] = [None] * len(rows)
    was_training, done = model.training, 0
    model.train(False)
    try:
        with torch.inference_mode():
            for block in blocks_of_rows(model, distinct, tokens_at_once):
                told("answers", done / len(distinct))
                done += len(block)
                for row, scores in zip(block, _scores(model, block, masked), strict=True):
                    for place in places[row]:
                        found[place] = scores
    finally:
        model.train(was_training)
    return [scores for scores in found if scores is not None]


def scored_logits(model: PreTrainedModel, ids: Tensor, read: Tensor, mask: Tensor | None = None) -> Tensor:
    """(M, V) logits at the M True places of `read` (B, L) bool, row by row; ids, mask: (B, L) int64."""
    options = {} if mask is None else {"attention_mask": mask}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=read, **options).logits
        return logits
    whole: Tensor = model(input_ids=ids, use_cache=False, **options).logits
    return whole[read]


def blocks_of_rows(
    model: PreTrainedModel, rows: Sequence[AnswerRow], tokens_at_once: int | None = None
) -> Iterator[list[AnswerRow]]:
    """Rows of like length that share a forward, the longest first; tokens_at_once: as of `answer_scores`."""
    on_cpu = model.device.type == "cpu"
    tokens = tokens_at_once or (TOKENS_AT_ONCE_ON_CPU if on_cpu else TOKENS_AT_ONCE)
    vocabulary = int(model.config.get_text_config().vocab_size)
    scored = (LOGITS_AT_ONCE if on_cpu else LOGITS_ON_A_GPU) // vocabulary
    block: list[AnswerRow] = []
    count = 0
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        own = len(row.scored)
        if block and ((len(block) + 1) * len(block[0].ids) > tokens or count + own > scored):
            yield block
            block, count = [], 0
        block.append(row)
        count += own
    if block:
        yield block


def _scores(model: PreTrainedModel, rows: Sequence[AnswerRow], masked: int | None) -> list[AnswerScores]:
    """Those of rows that share a forward; masked: the id of tokens that are not attended to."""
    device, width = model.device, max(len(row.ids) for row in rows)
    # Behind a row's end stands a token that it has.
    ids = torch.tensor([row.ids + row.ids[:1] * (width - len(row.ids)) for row in rows], device=device)
    mask = None
    if masked is not None:
        own = torch.arange(width, device=device) < torch.tensor([[len(row.ids)] for row in rows], device=device)
        mask = (own & (ids != masked)).long()
    read = torch.zeros(ids.shape, dtype=torch.bool)
    for place, row in enumerate(rows):
        read[place, [position - 1 for position in row.scored]] = True
    labels = [[row.labels[position] for position in row.scored] for row in rows]
    counts = [len(each) for each in labels]
    if not sum(counts):
        return [_none() for _ in rows]
    wanted = torch.tensor([label for each in labels for label in each], device=device)
    logits = scored_logits(model, ids, read.to(device), mask)
    parts = [part.cpu() for part in _token_scores(logits, wanted)]
    log_probs, means, variances = (part.double().numpy() for part in parts[:3])
    matches = parts[3].numpy()
    ends = np.cumsum(counts)
    own_parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [
        AnswerScores(np.asarray(each, dtype=np.int64), log_probs[part], matches[part], means[part], variances[part])
        for each, part in zip(labels, own_parts, strict=True)
    ]


def _token_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of logits (M, V) and labels (M,): log-probabilities, means and variances, float32 (M,), and matches, bool (M,).

    A part of the tokens at a time: what is computed of them is several times as large as their logits.
    """
    matches = greedy_tokens(logits) == labels
    step = max(1, LOGITS_AT_ONCE // (4 * logits.shape[1]))
    found = []
    for begin in range(0, len(labels), step):
        own = labels[begin : begin + step]
        log_p = logits[begin : begin + step].float().log_softmax(-1)
        p = log_p.exp()
        # A token that the model excludes has p = 0 and log p = -inf, whose product counts as 0.
        bounded = log_p.clamp(min=-1e4)
        mean = (p * bounded).sum(-1)
        variance = (p * (bounded - mean[:, None]).square()).sum(-1)
        found.append(torch.stack([log_p.gather(1, own[:, None])[:, 0], mean, variance]))
    log_probs, means, variances = torch.cat(found, dim=1)
    return log_probs, means, variances, matches


def _none() -> AnswerScores:
    nothing = np.zeros(0)
    return AnswerScores(nothing.astype(np.int64), nothing, nothing.astype(np.bool_), nothing, nothing)
