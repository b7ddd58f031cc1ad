"""How near a candidate is to its reference in words, and how varied it is.

BLEU is sacrebleu's sentence BLEU without smoothing, scaled to 0..1, on lower-cased text: with the paper's threshold of
0.01 it asks, in effect, whether candidate and reference share four words in a row. Entropy and distinct share are of
generated token ids (Table I's Entropy column).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU


@lru_cache(maxsize=1)
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    # It advises effective_order at every sentence; without it 'no shared word 4-gram' is 0, which is what we ask.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    return BLEU(lowercase=True, smooth_method="none", effective_order=False, tokenize="13a")


def bleu(candidates: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """(N,) float64 in 0..1: 4-gram BLEU of each candidate against its reference; 0 for an empty text."""
    scorer = _bleu()
    scores = [
        scorer.sentence_score(candidate, [reference]).score / 100 if candidate.strip() and reference.strip() else 0.0
        for candidate, reference in zip(candidates, references, strict=True)
    ]
    return np.clip(np.asarray(scores, dtype=np.float64), 0.0, 1.0)


def token_entropy(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) float64 bits: entropy of each row's histogram of token ids; (N, T) ids, at most log2 T."""
    values = []
    for row in ids:
        shares = np.unique(row, return_counts=True)[1] / max(len(row), 1)
        values.append(float(-(shares * np.log2(shares)).sum()) + 0.0)
    return np.asarray(values, dtype=np.float64)


def distinct_share(ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) float64: distinct token ids of each row over their number."""
    return np.asarray([len(np.unique(row)) / max(len(row), 1) for row in ids], dtype=np.float64)
