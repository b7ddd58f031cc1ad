"""How near a candidate is to its reference in words, and how varied it is.

BLEU is sacrebleu's sentence BLEU without smoothing, scaled to 0..1, on lower-cased text: with the paper's threshold of
0.01 it asks, in effect, whether candidate and reference share four words in a row. So it matters what a word is: 13a
splits at all punctuation, `words` (nltk's word_tokenize) keeps 'e.g.' and 'a/b/c' whole. Entropy and distinct share are
of generated token ids (Table I's Entropy column).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU


BleuTokenizer = Literal["13a", "words"]


@lru_cache(maxsize=1)
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    # It advises effective_order at every sentence; without it 'no shared word 4-gram' is 0, which is what we ask.
    logging.getLogger("sacrebleu").setLevel(logging.ERROR)
    return BLEU(smooth_method="none", effective_order=False, tokenize="none")


@lru_cache(maxsize=2)
def _splitter(tokenizer: BleuTokenizer) -> Callable[[str], list[str]]:
    """Text to words."""
    if tokenizer == "words":
        from nltk.tokenize import word_tokenize

        # The text as one line: to cut it into sentences first takes a model that must be downloaded.
        return partial(word_tokenize, preserve_line=True)
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    split = Tokenizer13a()
    return lambda text: str(split(text.rstrip())).split()


def bleu(candidates: Sequence[str], references: Sequence[str], tokenizer: BleuTokenizer = "13a") -> NDArray[np.float64]:
    """(N,) float64 in 0..1: 4-gram BLEU of each candidate against its reference; 0 for an empty text."""
    split, scorer = _splitter(tokenizer), _bleu()
    scores = []
    for candidate, reference in zip(candidates, references, strict=True):
        said, wanted = split(candidate.lower()), split(reference.lower())
        score = scorer.sentence_score(" ".join(said), [" ".join(wanted)]).score / 100 if said and wanted else 0.0
        scores.append(score)
    return np.clip(np.asarray(scores, dtype=np.float64), 0.0, 1.0)


def has_four_words(references: Sequence[str], tokenizer: BleuTokenizer = "13a") -> NDArray[np.bool_]:
    """(N,) whether BLEU can be anything but 0: a reference with fewer words shares no 4-gram, whatever is said."""
    split = _splitter(tokenizer)
    return np.asarray([len(split(reference)) >= 4 for reference in references], dtype=np.bool_)


def token_entropy(ids: Iterable[NDArray[np.int64]]) -> NDArray[np.float64]:
    """(N,) float64 bits: entropy of each row's histogram of token ids; of T ids at most log2 T."""
    values = []
    for row in ids:
        shares = np.unique(row, return_counts=True)[1] / max(len(row), 1)
        values.append(float(-(shares * np.log2(shares)).sum()) + 0.0)
    return np.asarray(values, dtype=np.float64)


def distinct_share(ids: Iterable[NDArray[np.int64]]) -> NDArray[np.float64]:
    """(N,) float64: distinct token ids of each row over their number."""
    return np.asarray([len(np.unique(row)) / max(len(row), 1) for row in ids], dtype=np.float64)


def variety(ids: Iterable[NDArray[np.int64]], eos_id: int | None) -> NDArray[np.float64]:
    """(N,) float64: distinct tokens of what each row says before its end of text, over how many it says.

    Behind the end stand pads, which a short answer has many of; they are no repetition. But a row that says less than
    half of what it was asked for counts as half as long: one word and the end is not varied.
    """
    found = []
    for row in ids:
        ends = np.flatnonzero(row == (-1 if eos_id is None else eos_id))
        said = row[: ends[0]] if len(ends) else row
        found.append(len(np.unique(said)) / max(len(said), len(row) / 2, 1))
    return np.asarray(found, dtype=np.float64)
