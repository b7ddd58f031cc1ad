"""One teacher-forced forward a distinct row, and from it all that the measures of an answer need.

    rows = [AnswerRow.after(ids, given=len(prompt_ids)) for ids in whole]
    scores = answer_scores(model, rows)                  # probability, truth ratio, EM, ES and membership read these

Rows of like length share a forward and begin in its first column. What pads a row stands behind its end, where a causal
model does not look from before, so that a row's numbers do not depend on its batch but for rounding, and positions are
those of the row alone. The output matrix is applied to the scored places only. What the rows of one prompt begin with
is read once (shared_prompts.py).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icu_ray.console.progress import told
from icu_ray.metrics.answers import AnswerRow, AnswerScores
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.metrics.greedy_decoding import greedy_tokens
from icu_ray.metrics.kv_cache import LOGITS_AT_ONCE, TOKENS_AT_ONCE_ON_CPU
from icu_ray.metrics.shared_prompts import PromptCache, PromptGroup, prompt_groups, read_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

TOKENS_AT_ONCE = 16 * 1024
"""Tokens of a forward on a GPU, pads included."""
SURE = 0.6
"""Probability of a token that is the most probable one, however bfloat16 rounds: others have 0.4 together."""
LOGITS_ON_A_GPU = 512 * 1024 * 1024
"""Numbers (scored tokens x vocabulary) of a forward on a GPU: 1 GB in bfloat16. On a CPU: LOGITS_AT_ONCE."""


def answer_scores(
    model: PreTrainedModel,
    rows: Sequence[AnswerRow],
    *,
    conventions: Conventions = DEFINED,
    pad_id: int | None = None,
    tokens_at_once: int | None = None,
    in_detail: Sequence[bool] | None = None,
    share: bool = True,
) -> list[AnswerScores]:
    """The scores of every row, in their order; the model is put into eval mode for it and back.

    Equal rows are read once, and so is what the rows of one prompt begin with, where that pays. pad_id: needed with
    `mask="pad_id"` alone, then no token with that id is attended to. tokens_at_once: bound on the tokens of a forward,
    pads included; a longer row has a forward of its own. in_detail: whether a row's means and variances are asked for;
    they are NaN where they are not, and computed of all rows by default. share=False reads every row whole, which a
    model without a key/value cache needs. ValueError without the pad that the mask needs.
    """
    if conventions.mask == "pad_id" and pad_id is None:
        raise ValueError("mask='pad_id' needs the id of the pad")
    masked = pad_id if conventions.mask == "pad_id" else None
    places: dict[AnswerRow, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    detailed = {row for row, own in places.items() if in_detail is None or any(in_detail[place] for place in own)}
    groups, alone = prompt_groups(list(places)) if share else ([], list(places))
    found: list[AnswerScores | None] = [None] * len(rows)
    was_training, done = model.training, 0
    model.train(False)
    try:
        with torch.inference_mode():
            for block, cache in _forwards(model, groups, alone, tokens_at_once, masked):
                told("answers", done / len(places))
                done += len(block)
                for row, scores in zip(block, _scores(model, block, masked, cache, detailed), strict=True):
                    for place in places[row]:
                        found[place] = scores
    finally:
        model.train(was_training)
    return [scores for scores in found if scores is not None]


def surely_said(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    likely: Sequence[Sequence[int]],
    masked: int | None = None,
) -> list[tuple[int, ...]]:
    """With which of its likely tokens the greedy answer to each prompt begins for sure: openings of `greedy_answers`.

    A token is sure that has the probability SURE or more, so that rounding, which differs between one forward and step
    after step, cannot change what is said. masked: id of tokens that attention does not see in a prompt. Of a prompt
    with such tokens nothing is sure: step after step positions are counted without them, in one forward with them.
    """
    known = [[] if masked in prompts[place] else _before(tokens, masked) for place, tokens in enumerate(likely)]
    asked = [place for place, tokens in enumerate(known) if len(prompts[place]) and tokens]
    rows = [AnswerRow.after([*prompts[place], *known[place]], len(prompts[place])) for place in asked]
    scores = answer_scores(model, rows, in_detail=[False] * len(rows))
    openings: list[tuple[int, ...]] = [() for _ in prompts]
    for place, each in zip(asked, scores, strict=True):
        unsure = np.flatnonzero(~(each.log_probs >= math.log(SURE)))
        openings[place] = tuple(each.tokens[: unsure[0] if len(unsure) else len(each)].tolist())
    return openings


def _before(tokens: Sequence[int], masked: int | None) -> list[int]:
    """The tokens before the first masked one, which steps see among what was said, and a forward does not."""
    found = list(tokens)
    return found[: found.index(masked)] if masked is not None and masked in found else found


def _forwards(
    model: PreTrainedModel,
    groups: Sequence[PromptGroup],
    alone: Sequence[AnswerRow],
    tokens_at_once: int | None,
    masked: int | None,
) -> Iterator[tuple[list[AnswerRow], PromptCache | None]]:
    """Rows that share a forward, and the keys and values that they go on from."""
    for group in groups:
        cache = read_prompts(model, group, masked)
        source = {row: place for place, own in enumerate(group.rows) for row in own}
        for block in blocks_of_rows(model, list(source), tokens_at_once, group.width):
            yield block, cache.of([source[row] for row in block])
    for block in blocks_of_rows(model, alone, tokens_at_once):
        yield block, None


def scored_logits(
    model: PreTrainedModel, ids: Tensor, read: Tensor, mask: Tensor | None = None, cache: Cache | None = None
) -> Tensor:
    """(M, V) logits at the M True places of `read` (B, L) bool, row by row; ids: (B, L) int64.

    cache: what stands before ids. mask: (B, L) int64, with the cache's columns before them.
    """
    options: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    if mask is not None:
        options["attention_mask"] = mask
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: Tensor = model(input_ids=ids, logits_to_keep=read, **options).logits
        return logits
    whole: Tensor = model(input_ids=ids, **options).logits
    return whole[read]


def blocks_of_rows(
    model: PreTrainedModel, rows: Sequence[AnswerRow], tokens_at_once: int | None = None, first: int = 0
) -> Iterator[list[AnswerRow]]:
    """Rows of like length that share a forward, the longest first, so that what does not fit is known at once.

    tokens_at_once: as of `answer_scores`. first: tokens of each that are not read in it.
    """
    on_cpu = model.device.type == "cpu"
    tokens = tokens_at_once or (TOKENS_AT_ONCE_ON_CPU if on_cpu else TOKENS_AT_ONCE)
    vocabulary = int(model.config.get_text_config().vocab_size)
    scored = (LOGITS_AT_ONCE if on_cpu else LOGITS_ON_A_GPU) // vocabulary
    block: list[AnswerRow] = []
    count = 0
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        own = len(row.scored)
        if block and ((len(block) + 1) * (len(block[0].ids) - first) > tokens or count + own > scored):
            yield block
            block, count = [], 0
        block.append(row)
        count += own
    if block:
        yield block


def _scores(
    model: PreTrainedModel,
    rows: Sequence[AnswerRow],
    masked: int | None,
    cache: PromptCache | None,
    detailed: Collection[AnswerRow],
) -> list[AnswerScores]:
    """Those of rows that share a forward; masked: the id of tokens that are not attended to. cache: their prompts'."""
    device, first = model.device, 0 if cache is None else cache.width
    places = [row.scored for row in rows]
    labels = [[row.labels[position] for position in own] for row, own in zip(rows, places, strict=True)]
    counts = [len(each) for each in labels]
    if not sum(counts):
        return [_none() for _ in rows]
    # Nothing is predicted from a row's last scored token on. Behind a row's end stands a token that it has.
    width = max(own[-1] for own in places if own)
    known = [row.ids[: own[-1] if own else 1] for row, own in zip(rows, places, strict=True)]
    whole = torch.tensor([each + each[:1] * (width - len(each)) for each in known], device=device)
    mask = None
    if masked is not None:
        own = torch.arange(width, device=device) < torch.tensor([[len(each)] for each in known], device=device)
        mask = (own & (whole != masked)).long()
    read = torch.zeros((len(rows), width - first), dtype=torch.bool)
    for place, positions in enumerate(places):
        read[place, [position - 1 - first for position in positions]] = True
    wanted = torch.tensor([label for each in labels for label in each], device=device)
    logits = scored_logits(model, whole[:, first:], read.to(device), mask, cache)
    asked = torch.tensor([row in detailed for row, count in zip(rows, counts, strict=True) for _ in range(count)])
    parts = [part.cpu() for part in _token_scores(logits, wanted, asked.to(device))]
    log_probs, means, variances = (part.double().numpy() for part in parts[:3])
    matches = parts[3].numpy()
    ends = np.cumsum(counts)
    own_parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [
        AnswerScores(np.asarray(each, dtype=np.int64), log_probs[part], matches[part], means[part], variances[part])
        for each, part in zip(labels, own_parts, strict=True)
    ]


def _token_scores(logits: Tensor, labels: Tensor, detailed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of logits (M, V) and labels (M,): log-probabilities, means and variances, float32 (M,), and matches, bool (M,).

    detailed: bool (M,), whose means and variances are computed; NaN for others. A part of the tokens at a time: what
    is computed of them is several times as large as their logits.
    """
    matches = greedy_tokens(logits) == labels
    log_probs = logits.new_empty(len(labels), dtype=torch.float32)
    means, variances = torch.full_like(log_probs, torch.nan), torch.full_like(log_probs, torch.nan)
    step = max(1, LOGITS_AT_ONCE // (4 * logits.shape[1]))
    for begin in range(0, len(labels), step):
        part = slice(begin, begin + step)
        some = logits[part].float()
        # Below the largest, as in log_softmax: beside large scores the loss of a sure token would be rounded away.
        some = some - some.amax(-1, keepdim=True)
        total = some.logsumexp(-1)
        log_probs[part] = some.gather(1, labels[part, None])[:, 0] - total
        asked = detailed[part].nonzero()[:, 0]
        if len(asked) == 0:
            continue
        log_p = some[asked] - total[asked, None]
        p = log_p.exp()
        # A token that the model excludes has p = 0 and log p = -inf, whose product counts as 0.
        bounded = log_p.clamp(min=-1e4)
        mean = (p * bounded).sum(-1)
        means[begin + asked] = mean
        variances[begin + asked] = (p * (bounded - mean[:, None]).square()).sum(-1)
    return log_probs, means, variances, matches


def _none() -> AnswerScores:
    nothing = np.zeros(0)
    return AnswerScores(nothing.astype(np.int64), nothing, nothing.astype(np.bool_), nothing, nothing)
