"""Greedy decoding of every prefix of a sequence at once, exactly, from the positions where the model errs alone.

Up to its first error a continuation copies the truth, so all prefixes between two errors share one tail, and only the
tails are decoded: all of them together, column by column, and each for as long as it may still say an n-gram of the
truth. At column c every open continuation has exactly c cached
tokens, so there is no padding, no mask and no position arithmetic, and any causal LM with a cache will do. Sequences of
different lengths stand side by side: each begins at column 0, and its continuations leave where it ends.

    known = Predictions(ids, predicted, lengths, eos_id)
    sequences = greedy_continuations(model, known, truth, starts, ngram, on_token)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    def own(self, row: int) -> NDArray[np.int64]:
        """A sequence's own tokens."""
        return self.ids[row, : self.lengths[row]]

    def at(self, row: int, position: int) -> int:
        """The greedy token at `position`."""
        return int(self.predicted[row, position - 1])


def greedy_tokens(logits: Tensor) -> Tensor:
    """(..., V) logits -> (...) the most probable tokens; NO_TOKEN where the best score is not finite."""
    tokens = logits.argmax(-1)
    best = logits.gather(-1, tokens[..., None])[..., 0]  # NaN, where there is one
    return tokens.masked_fill(~best.isfinite(), NO_TOKEN)


class PossibleMatches:
    """Whether an n-gram of the truth may still follow in a tail: one that the truth has at `start` or behind.

    The last n-gram of a sequence starts at `last`. What a tail says from there on must itself occur in the truth, or no
    n-gram that reaches further does. own: the sequence, (L,) int64. ngram=0: something may always follow.
    """

    def __init__(self, own: NDArray[np.int64], start: int, ngram: int) -> None:
        self.last = len(own) - ngram
        self._own = own.astype("<i8")
        self._behind = self._own[start:].tobytes()
        self._said: dict[int, bytes] = {}

    def may_follow(self, position: int, token: int, column: int) -> bool:
        """Told every token of the tail from `position`, with its column; False where its rest cannot count."""
        if column < self.last:
            return True
        before = self._said.get(position)
        if before is None:
            before = self._own[self.last : position].tobytes()
        said = self._said[position] = before + token.to_bytes(8, "little", signed=True)
        place = self._behind.find(said)
        while place > 0 and place % 8 != 0:  # in the middle of a token
            place = self._behind.find(said, place + 1)
        return place >= 0


_Tails = list[dict[int, NDArray[np.int64]]]
"""For each sequence: position of an error -> the tokens that are generated from there on."""


def greedy_continuations(
    model: PreTrainedModel,
    predictions: Predictions,
    truth: ColumnCache,
    starts: NDArray[np.int64],
    ngram: int,
    on_token: Callable[[float], None],
    whole: bool = False,
) -> list[Continuations]:
    """The greedy continuations of every prefix that can hold an n-gram, of each sequence from its start (n,) on.

    truth: the sequences' keys and values. on_token: hears the part of all tokens that are generated. whole: to their
    ends; otherwise a tail may lack last tokens that complete no n-gram of the truth. Needs inference mode and a model
    in eval mode.
    """
    tails = _decode(model, predictions, truth, starts, ngram, on_token, whole)
    sequences = []
    for row, ends in enumerate(predictions.ends):
        # A truth that is itself end-of-text ends its continuation there, with that token generated.
        stops = {int(d): predictions.ids[row, d : d + 1] for d in np.unique(ends) if d < len(ends) - 1}
        sequences.append(Continuations(predictions.own(row), ends, {**stops, **tails[row]}))
    return sequences


def _decode(
    model: PreTrainedModel,
    predictions: Predictions,
    truth: ColumnCache,
    starts: NDArray[np.int64],
    ngram: int,
    on_token: Callable[[float], None],
    whole: bool,
) -> _Tails:
    """For every sequence, what is generated from each needed error on: up to its length, an end-of-text, or, if not
    `whole`, where nothing that follows can matter."""
    tails: _Tails = [{} for _ in predictions.ids]
    matches = [
        PossibleMatches(own, int(start), 0 if whole else ngram)
        for own, start in zip(map(predictions.own, range(len(starts))), starts, strict=True)
    ]
    jobs: list[tuple[int, int]] = []
    for row, ends in enumerate(predictions.ends):
        for position in needed_tails(ends, int(starts[row]), ngram):
            token = predictions.at(row, position)
            tails[row][position] = np.asarray([token], dtype=np.int64)
            over = token in (predictions.eos_id, NO_TOKEN) or position == predictions.lengths[row] - 1
            if matches[row].may_follow(position, token, position) and not over:
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
        for count in _decode_columns(model, predictions, truth, some, tails, matches):
            on_token((before + count) / int(tokens[-1]))
        begin += at_once
    return tails


def _decode_columns(
    model: PreTrainedModel,
    predictions: Predictions,
    truth: ColumnCache,
    jobs: list[tuple[int, int]],
    tails: _Tails,
    matches: Sequence[PossibleMatches],
) -> Iterator[int]:
    """Decode the jobs (position, row), sorted, one column a step; a row joins at its position with KV[:position].

    Yields how many tokens have been generated, after each column; the tails are there when nothing more comes.
    """
    device = model.device
    columns = np.asarray([position for position, _ in jobs], dtype=np.int64)
    continued, indices = np.unique([row for _, row in jobs], return_inverse=True)
    lengths = predictions.lengths[continued][indices]
    length = int(lengths.max())
    firsts = np.asarray([matches[row].last for _, row in jobs])
    sources = torch.from_numpy(indices).to(device)
    first_tokens = torch.tensor([predictions.at(row, position) for position, row in jobs], device=device)
    written = np.full((len(jobs), length), NO_TOKEN)
    counts = np.zeros(len(jobs), dtype=np.int64)
    cache = TailCache(truth, torch.from_numpy(continued).to(device), len(jobs), int(columns[0]), length)
    joined = count = 0
    alive = np.zeros(0, dtype=np.int64)  # job of each open cache row
    tokens = torch.zeros(0, dtype=torch.int64, device=device)
    for column in range(int(columns[0]), length - 1):
        more = int(np.searchsorted(columns, column, side="right"))
        if more > joined:
            cache.join(sources[joined:more], column)
            alive = np.concatenate([alive, np.arange(joined, more)])
            tokens = torch.cat([tokens, first_tokens[joined:more]])
            joined = more
        if len(alive) == 0:
            continue
        cache.open(slice(0, len(alive)), column)
        logits = model(input_ids=tokens[:, None], past_key_values=cache, use_cache=True).logits
        tokens = greedy_tokens(logits[:, -1])
        said = written[alive, column + 1] = tokens.cpu().numpy()
        counts[alive] += 1
        count += len(alive)
        yield count
        # The last token of a sequence is generated, but nothing follows it.
        going = (said != NO_TOKEN) & (lengths[alive] > column + 2)
        if predictions.eos_id is not None:
            going &= said != predictions.eos_id
        for place in np.flatnonzero(going & (firsts[alive] <= column + 1)):
            position, row = jobs[alive[place]]
            going[place] = matches[row].may_follow(position, int(said[place]), column + 1)
        if not going.all():
            kept = torch.from_numpy(np.flatnonzero(going)).to(device)
            cache.keep(kept, column + 1)
            alive, tokens = alive[going], tokens[kept]
    for job, (position, row) in enumerate(jobs):
        rest = written[job, position + 1 : position + 1 + counts[job]]
        tails[row][position] = np.concatenate([tails[row][position], rest])
