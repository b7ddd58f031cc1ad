"""One teacher-forced forward a distinct row, and from it all that the measures of an answer need.

    rows = [AnswerRow.after(ids, given=len(prompt_ids)) for ids in whole]
    scores = answer_scores(model, rows)                  # probability, truth ratio, EM, ES and membership read these

Rows of like length share a forward and begin in its first column. What pads a row stands behind its end, where a causal
model does not look from before, so that a row's numbers do not depend on its batch but for rounding, and positions are
those of the row alone. The output matrix is applied to the scored places only. What rows begin with in common is read
once (row_trees.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icu_ray.console.progress import told
from icu_ray.metrics.answers import AnswerRow, AnswerScores
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.metrics.greedy_decoding import greedy_tokens
from icu_ray.metrics.kv_cache import LOGITS_AT_ONCE, TOKENS_AT_ONCE_ON_CPU
from icu_ray.metrics.row_trees import RowTree, row_trees, tree_batch, tree_limit

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
    in_detail: Sequence[bool] | None = None,
    share: bool = True,
) -> list[AnswerScores]:
    """The scores of every row, in their order; the model is put into eval mode for it and back.

    Equal rows are read once, and so is what rows begin with in common, where that pays. pad_id: needed with
    `mask="pad_id"` alone, then no token with that id is attended to. tokens_at_once: bound on the tokens of a forward,
    pads included; a longer row has a forward of its own. in_detail: whether a row's means and variances are asked for;
    they are NaN where they are not, and computed of all rows by default. share=False reads every row whole. ValueError
    without the pad that the mask needs.
    """
    if conventions.mask == "pad_id" and pad_id is None:
        raise ValueError("mask='pad_id' needs the id of the pad")
    masked = pad_id if conventions.mask == "pad_id" else None
    places: dict[AnswerRow, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    detailed = {row for row, own in places.items() if in_detail is None or any(in_detail[place] for place in own)}
    found: list[AnswerScores | None] = [None] * len(rows)
    was_training, done = model.training, 0
    model.train(False)
    try:
        with torch.inference_mode():
            trees, alone = row_trees(list(places), tree_limit(model) if share and masked is None else 0)
            for asked in _forwards(model, trees, alone, tokens_at_once, masked):
                told("answers", done / len(places))
                done += len(asked.rows)
                for row, scores in zip(asked.rows, _scores(model, asked, detailed), strict=True):
                    for place in places[row]:
                        found[place] = scores
    finally:
        model.train(was_training)
    return [scores for scores in found if scores is not None]


@dataclass(frozen=True)
class _Asked:
    """A forward. ids: (B, L) int64. read: (B, L) bool, whose logits are needed. given: mask and positions, where they
    are not the usual ones. places: of each row, for each of its scored tokens the place among those that are read."""

    rows: Sequence[AnswerRow]
    ids: Tensor
    read: Tensor
    places: Sequence[NDArray[np.int64]]
    given: dict[str, Tensor] = field(default_factory=dict)


def _forwards(
    model: PreTrainedModel,
    trees: Sequence[RowTree],
    alone: Sequence[AnswerRow],
    tokens_at_once: int | None,
    masked: int | None,
) -> Iterator[_Asked]:
    for some in _blocks_of_trees(model, trees, tokens_at_once):
        yield _of_trees(model, some)
    for block in blocks_of_rows(model, alone, tokens_at_once):
        yield _of_rows(model, block, masked)


def scored_logits(model: PreTrainedModel, ids: Tensor, read: Tensor, **given: Tensor) -> Tensor:
    """(M, V) logits at the M True places of `read` (B, L) bool, row by row; ids: (B, L) int64.

    given: `attention_mask` (B, L) int64 or (B, 1, L, L) as the model adds it, `position_ids` (B, L) int64.
    """
    options: dict[str, Any] = {"use_cache": False, **given}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits: Tensor = model(input_ids=ids, logits_to_keep=read, **options).logits
        return logits
    whole: Tensor = model(input_ids=ids, **options).logits
    return whole[read]


def blocks_of_rows(
    model: PreTrainedModel, rows: Sequence[AnswerRow], tokens_at_once: int | None = None
) -> Iterator[list[AnswerRow]]:
    """Rows of like length that share a forward, the longest first, so that what does not fit is known at once.

    tokens_at_once: as of `answer_scores`.
    """
    for block in _blocks(model, [(len(row.ids), len(row.scored)) for row in rows], tokens_at_once):
        yield [rows[place] for place in block]


def _blocks_of_trees(
    model: PreTrainedModel, trees: Sequence[RowTree], tokens_at_once: int | None
) -> Iterator[list[RowTree]]:
    # Of a token that several rows have in common the scores are needed once, at most.
    for block in _blocks(model, [(len(tree), len(tree)) for tree in trees], tokens_at_once):
        yield [trees[place] for place in block]


def _blocks(
    model: PreTrainedModel, sizes: Sequence[tuple[int, int]], tokens_at_once: int | None
) -> Iterator[list[int]]:
    """Places of what shares a forward, the longest first. sizes: of each its tokens and how many of them are scored."""
    on_cpu = model.device.type == "cpu"
    tokens = tokens_at_once or (TOKENS_AT_ONCE_ON_CPU if on_cpu else TOKENS_AT_ONCE)
    vocabulary = int(model.config.get_text_config().vocab_size)
    most = (LOGITS_AT_ONCE if on_cpu else LOGITS_ON_A_GPU) // vocabulary
    block: list[int] = []
    count = 0
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place][0]):
        scored = sizes[place][1]
        if block and ((len(block) + 1) * sizes[block[0]][0] > tokens or count + scored > most):
            yield block
            block, count = [], 0
        block.append(place)
        count += scored
    if block:
        yield block


def _of_rows(model: PreTrainedModel, rows: Sequence[AnswerRow], masked: int | None) -> _Asked:
    """The forward of whole rows. masked: the id of tokens that are not attended to."""
    device, scored = model.device, [row.scored for row in rows]
    # Nothing is predicted from a row's last scored token on. Behind a row's end stands a token that it has.
    width = max((own[-1] for own in scored if own), default=1)
    known = [row.ids[: own[-1] if own else 1] for row, own in zip(rows, scored, strict=True)]
    ids = torch.tensor([each + each[:1] * (width - len(each)) for each in known], device=device)
    given = {}
    if masked is not None:
        own = torch.arange(width, device=device) < torch.tensor([[len(each)] for each in known], device=device)
        given["attention_mask"] = (own & (ids != masked)).long()
    read = torch.zeros((len(rows), width), dtype=torch.bool)
    for place, positions in enumerate(scored):
        read[place, [position - 1 for position in positions]] = True
    ends = np.cumsum([len(own) for own in scored])
    places = [np.arange(end - len(own), end) for end, own in zip(ends, scored, strict=True)]
    return _Asked(rows, ids, read.to(device), places, given)


def _of_trees(model: PreTrainedModel, trees: Sequence[RowTree]) -> _Asked:
    """The forward of trees."""
    ids, positions, mask = tree_batch(trees, model.dtype, model.device)
    read = np.zeros(ids.shape, dtype=np.bool_)
    scored: list[tuple[int, NDArray[np.int64]]] = []
    for place, tree in enumerate(trees):
        for row, path in zip(tree.rows, tree.paths, strict=True):
            before = path[[position - 1 for position in row.scored]]
            read[place, before] = True
            scored.append((place, before))
    numbers = read.reshape(-1).cumsum().reshape(read.shape) - 1
    places = [numbers[place, before] for place, before in scored]
    rows = [row for tree in trees for row in tree.rows]
    given = {"attention_mask": mask, "position_ids": positions}
    return _Asked(rows, ids, torch.from_numpy(read).to(model.device), places, given)


def _scores(model: PreTrainedModel, asked: _Asked, detailed: Collection[AnswerRow]) -> list[AnswerScores]:
    """Those of rows that share a forward. detailed: rows whose means and variances are needed."""
    labels = [[row.labels[position] for position in row.scored] for row in asked.rows]
    counts = [len(each) for each in labels]
    if not sum(counts):
        return [_none() for _ in asked.rows]
    device = model.device
    logits = scored_logits(model, asked.ids, asked.read, **asked.given)
    places = torch.from_numpy(np.concatenate(asked.places)).to(device)
    wanted = torch.tensor([label for each in labels for label in each], device=device)
    needed = torch.tensor(
        [row in detailed for row, count in zip(asked.rows, counts, strict=True) for _ in range(count)]
    )
    parts = [part.cpu() for part in _token_scores(logits, places, wanted, needed.to(device))]
    log_probs, means, variances = (part.double().numpy() for part in parts[:3])
    matches = parts[3].numpy()
    ends = np.cumsum(counts)
    own_parts = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    return [
        AnswerScores(np.asarray(each, dtype=np.int64), log_probs[part], matches[part], means[part], variances[part])
        for each, part in zip(labels, own_parts, strict=True)
    ]


def _token_scores(
    logits: Tensor, places: Tensor, labels: Tensor, detailed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of N labels (N,), predicted at these places (N,) of the logits (M, V): log-probabilities, means and variances,
    float32 (N,), and matches, bool (N,).

    detailed: bool (N,), whose means and variances are computed; NaN for others. A part of the tokens at a time: what
    is computed of them is several times as large as their logits.
    """
    matches = greedy_tokens(logits)[places] == labels
    log_probs = logits.new_empty(len(labels), dtype=torch.float32)
    means, variances = torch.full_like(log_probs, torch.nan), torch.full_like(log_probs, torch.nan)
    step = max(1, LOGITS_AT_ONCE // (4 * logits.shape[1]))
    for begin in range(0, len(labels), step):
        part = slice(begin, begin + step)
        some = logits[places[part]].float()
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
