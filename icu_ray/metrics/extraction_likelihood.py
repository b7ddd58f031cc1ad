"""Extraction likelihood from greedy continuations: the counting half of the probe, in numpy and plain Python.

For a prefix length t the continuation g(t) is the truth up to the first position d >= t where the model errs, and
what it says instead from there on (`tail`). All prefixes between two errors share that tail, so their n-grams are
looked up once. A generated n-gram counts for prefix t when it occurs in the truth at a start >= t. A text in which no
n-gram fits behind the first prefix has no EL: its value is NaN, not 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Denominator = Literal["label", "generation"]

NO_TOKEN = -1
"""Stands for the greedy token where the model's scores are not finite: the largest of them is no prediction."""


@dataclass(frozen=True)
class Continuations:
    """Greedy continuations of every prefix of one sequence.

    truth: (L,) int64. ends: for each t in [start, L] the first position d >= t at which the copy of the truth ends
    (an error, an end-of-text token, or L), as (L + 1,) int64. tails: d -> the tokens generated from d on.
    """

    truth: NDArray[np.int64]
    ends: NDArray[np.int64]
    tails: Mapping[int, NDArray[np.int64]]

    def tokens(self, t: int) -> NDArray[np.int64]:
        """g(t): the greedy continuation of truth[:t], its end-of-text token included, without padding."""
        end = int(self.ends[t])
        tail = self.tails.get(end)
        return self.truth[t:end] if tail is None else np.concatenate([self.truth[t:end], tail])

    @property
    def broken(self) -> bool:
        """Whether the model's scores were not finite somewhere."""
        return any((tail == NO_TOKEN).any() for tail in self.tails.values())


def copied_until(right: NDArray[np.bool_], truth: NDArray[np.int64], eos_id: int | None) -> NDArray[np.int64]:
    """(L + 1,) int64: for each t the first d >= t where the model errs or the truth is end-of-text, else L."""
    length = len(truth)
    stops = ~right if eos_id is None else ~right | (truth == eos_id)
    ends = np.full(length + 1, length, dtype=np.int64)
    positions = np.where(stops, np.arange(length), length)
    ends[:length] = np.minimum.accumulate(positions[::-1])[::-1]
    return ends


def needed_tails(ends: NDArray[np.int64], start: int, ngram: int) -> list[int]:
    """The positions below L at which some prefix that can hold an n-gram stops copying the truth."""
    length = len(ends) - 1
    last = length - ngram
    return [] if last < start else sorted({int(d) for d in ends[start : last + 1] if d < length})


def extraction_likelihood(
    continuations: Continuations, start: int, ngram: int, denominator: Denominator = "label"
) -> float:
    """EL of one sequence: sum over prefixes t of the overlap, over the number of prefixes that hold an n-gram; or NaN.

    Summed from the longest prefix down, as the definition's reference does, so that floats agree to the bit.
    """
    truth, ends = continuations.truth, continuations.ends
    length = len(truth)
    last = length - ngram
    if last < start:
        return math.nan
    lookup = _last_starts(truth, start, ngram)
    total = 0.0
    hits: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    current, first_crossing, generated_end = -1, 0, 0
    for t in range(last, start - 1, -1):
        end = int(ends[t])
        if end != current:
            current = end
            first_crossing = max(start, end - ngram + 1)
            hits, generated_end = _crossing(continuations, end, first_crossing, ngram, lookup)
        inside = max(0, end - ngram - t + 1)  # n-grams that lie wholly in the copied truth
        offset = max(0, t - first_crossing)
        count = inside + int(np.count_nonzero(hits[offset:] >= t))
        grams = length - t - ngram + 1 if denominator == "label" else generated_end - t - ngram + 1
        if grams > 0:
            total += count / grams
    return total / (length - start - (ngram - 1))


def unmeasured_text(count: int, total: int, ngram: int) -> str:
    """Of how many texts there is no EL, and why; '' where there is one of all."""
    if count == 0:
        return ""
    return f"EL{ngram} of {count} of {total} texts cannot be measured: shorter than {ngram} tokens after the boundary"


def _crossing(
    continuations: Continuations, end: int, first: int, ngram: int, lookup: Mapping[bytes, int]
) -> tuple[NDArray[np.int64], int]:
    """For each start p >= first of truth[:end] + tail: where its n-gram last starts in the truth, else -1."""
    tail = continuations.tails.get(end)
    whole = continuations.truth[first:end] if tail is None else np.concatenate([continuations.truth[first:end], tail])
    found = [lookup.get(gram, -1) for gram in _grams(whole, ngram)]
    return np.asarray(found, dtype=np.int64), first + len(whole)


def _last_starts(truth: NDArray[np.int64], start: int, ngram: int) -> dict[bytes, int]:
    return {gram: start + p for p, gram in enumerate(_grams(truth[start:], ngram))}


def _grams(tokens: NDArray[np.int64], ngram: int) -> list[bytes]:
    raw = tokens.astype("<i8").tobytes()
    return [raw[8 * p : 8 * (p + ngram)] for p in range(len(tokens) - ngram + 1)]


def extraction_likelihood_in_batches(
    sequences: Sequence[Continuations],
    start: int,
    ngram: int,
    pad_id: int,
    batch: int,
    denominator: Denominator = "label",
) -> list[float]:
    """EL as a batched generate() gives it: rows that end early are padded to the longest row of their batch.

    Needed for bit-level reproduction only (`el.batch_cut`): pads count as generated tokens.
    """
    values: list[float] = []
    for first in range(0, len(sequences), batch):
        group = sequences[first : first + batch]
        length = len(group[0].truth)
        totals = [0.0] * len(group)
        lookups = [_last_starts(sequence.truth, start, ngram) for sequence in group]
        for t in range(length - ngram, start - 1, -1):
            generated = [sequence.tokens(t) for sequence in group]
            width = max(len(tokens) for tokens in generated)
            for i, tokens in enumerate(generated):
                padded = np.concatenate([tokens, np.full(width - len(tokens), pad_id, dtype=np.int64)])
                grams = _grams(padded, ngram)
                count = sum(1 for gram in grams if lookups[i].get(gram, -1) >= t)
                total = length - t - ngram + 1 if denominator == "label" else len(grams)
                totals[i] += count / total if total > 0 else 0.0
        prefixes = length - start - (ngram - 1)
        values += [total / prefixes if prefixes > 0 else math.nan for total in totals]
    return values
