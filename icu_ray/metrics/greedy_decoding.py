"""Greedy decoding of every prefix of a sequence at once, exactly, from the positions where the model errs alone.

Up to its first error a continuation copies the truth, so all prefixes between two errors share one tail, and only the
tails are decoded: all of them together, column by column. At column c every open continuation has exactly c cached
tokens, so there is no padding, no mask and no position arithmetic, and any causal LM with a cache will do. Sequences of
different lengths stand side by side: each begins at column 0, and its continuations leave where it ends.

    known = Predictions(ids, predicted, lengths, eos_id)
    sequences = greedy_continuations(model, known, truth, starts, ngram, on_token)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from icu_ray.metrics.extraction_likelihood import NO_TOKEN, Continuations, copied_until, needed_tails
from icu_ray.metrics.kv_cache import TOKENS_AT_ONCE_ON_CPU, ColumnCache, TailCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_BYTES = 2 * 1024**3
"""Key/value bytes of open continuations that may exist at one time."""


@dataclass(frozen=True)
class Predictions:
    """Sequences, and the greedy token at each of their positions given the truth before it.

    ids: (n, L) int64, of which the first `lengths` (n,) are a sequence's own; the longest has L. predicted: (n, L - 1)
    int64, for the positions from 1 on; NO_TOKEN where there is none.
    """

    ids: NDArray[np.int64]
    predicted: NDArray[np.int64]
    lengths: NDArray[np.int64]
    eos_id: int | None

    @cached_property
    def ends(self) -> list[NDArray[np.int64]]:
        """`copied_until` of each sequence."""
        right = np.concatenate([np.ones((len(self.ids), 1), dtype=bool), self.predicted == self.ids[:, 1:]], axis=1)
        return [copied_until(right[i, :n], self.ids[i, :n], self.eos_id) for i, n in enumerate(self.lengths)]

    def at(self, row: int, position: int) -> int:
        """The greedy token at `position`."""
        return int(self.predicted[row, position - 1])


def greedy_tokens(logits: Tensor) -> Tensor:
    """(..., V) logits -> (...) the most probable tokens; NO_TOKEN where the best score is not finite."""
    tokens = logits.argmax(-1)
    best = logits.gather(-1, tokens[..., None])[..., 0]  # NaN, where there is one
    return tokens.masked_fill(~best.isfinite(), NO_TOKEN)


_Tails = list[dict[int, NDArray[np.int64]]]
"""For each sequence: position of an error -> the tokens that are generated from there on."""


def greedy_continuations(
    model: PreTrainedModel,
    predictions: Predictions,
    truth: ColumnCache,
    starts: NDArray[np.int64],
    ngram: int,
    on_token: Callable[[float], None],
) -> list[Continuations]:
    """The greedy continuations of every prefix that can hold an n-gram, of each sequence from its start (n,) on.

    truth: the sequences' keys and values. on_token: hears the part of all tokens that are generated. Needs inference
    mode and a model in eval mode.
    """
    tails = _decode(model, predictions, truth, starts, ngram, on_token)
    sequences = []
    for row, ends in enumerate(predictions.ends):
        # A truth that is itself end-of-text ends its continuation there, with that token generated.
        stops = {int(d): predictions.ids[row, d : d + 1] for d in np.unique(ends) if d < len(ends) - 1}
        own = predictions.ids[row, : predictions.lengths[row]]
        sequences.append(Continuations(own, ends, {**stops, **tails[row]}))
    return sequences


def _decode(
    model: PreTrainedModel,
    predictions: Predictions,
    truth: ColumnCache,
    starts: NDArray[np.int64],
    ngram: int,
    on_token: Callable[[float], None],
) -> _Tails:
    """For every sequence, what is generated from each needed error on, up to its length or an end-of-text."""
    tails: _Tails = [{} for _ in predictions.ids]
    jobs: list[tuple[int, int]] = []
    for row, ends in enumerate(predictions.ends):
        for position in needed_tails(ends, int(starts[row]), ngram):
            token = predictions.at(row, position)
            tails[row][position] = np.asarray([token], dtype=np.int64)
            if token not in (predictions.eos_id, NO_TOKEN) and position < predictions.lengths[row] - 1:
                jobs.append((position, row))
    # Neighbouring columns go together: rows then share the longest prefix, join and end within few steps.
    jobs.sort()
    tokens = np.cumsum([0, *(predictions.lengths[row] - 1 - position for position, row in jobs)])
    begin = 0
    while begin < len(jobs):
        own_columns = predictions.ids.shape[1] - jobs[begin][0]
        at_once = max(1, CACHE_BYTES // (truth.bytes_per_column() * own_columns))
        if model.device.type == "cpu":
            at_once = min(at_once, TOKENS_AT_ONCE_ON_CPU)
        some, before = jobs[begin : begin + at_once], int(tokens[begin])
        for count in _decode_columns(model, predictions, truth, some, tails):
            on_token((before + count) / int(tokens[-1]))
        begin += at_once
    return tails


def _decode_columns(
    model: PreTrainedModel, predictions: Predictions, truth: ColumnCache, jobs: list[tuple[int, int]], tails: _Tails
) -> Iterator[int]:
    """Decode the jobs (position, row), sorted, one column a step; a row joins at its position with KV[:position].

    Yields how many tokens have been generated, after each column; the tails are there when nothing more comes.
    """
    device = model.device
    columns = np.asarray([position for position, _ in jobs], dtype=np.int64)
    continued, indices = np.unique([row for _, row in jobs], return_inverse=True)
    lengths = predictions.lengths[continued][indices]
    length = int(lengths.max())
    # The last token of a sequence is generated, but nothing follows it.
    lasts = torch.from_numpy(lengths - 1).to(device)
    sources = torch.from_numpy(indices).to(device)
    first_tokens = torch.tensor([predictions.at(row, position) for position, row in jobs], device=device)
    written = torch.zeros((len(jobs), length), dtype=torch.int64, device=device)
    cache = TailCache(truth, torch.from_numpy(continued).to(device), len(jobs), int(columns[0]), length)
    joined = count = 0
    alive = torch.zeros(0, dtype=torch.int64, device=device)  # job of each open cache row
    tokens = torch.zeros(0, dtype=torch.int64, device=device)
    for column in range(int(columns[0]), length - 1):
        more = int(np.searchsorted(columns, column, side="right"))
        if more > joined:
            cache.join(sources[joined:more], column)
            alive = torch.cat([alive, torch.arange(joined, more, device=device)])
            tokens = torch.cat([tokens, first_tokens[joined:more]])
            joined = more
        if len(alive) == 0:
            continue
        cache.open(slice(0, len(alive)), column)
        logits = model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True).logits
        tokens = greedy_tokens(logits[:, -1])
        written[alive, column + 1] = tokens
        count += len(alive)
        yield count
        going = (tokens != NO_TOKEN) & (lasts[alive] > column + 1)
        if predictions.eos_id is not None:
            going &= tokens != predictions.eos_id
        if not bool(going.all()):
            kept = going.nonzero().squeeze(1)
            cache.keep(kept, column + 1)
            alive, tokens = alive[kept], tokens[kept]
    grown = written.cpu().numpy()
    for job, (position, row) in enumerate(jobs):
        rest = grown[job, position + 1 : lengths[job]]
        last = rest == NO_TOKEN
        if predictions.eos_id is not None:
            last |= rest == predictions.eos_id
        if (stops := np.flatnonzero(last)).size:
            rest = rest[: stops[0] + 1]
        tails[row][position] = np.concatenate([tails[row][position], rest])
