"""Normal forms of answers and dialogue turns, and the overlap of two texts."""

from __future__ import annotations

import re
import string
from collections import Counter

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_MARK = re.compile("[.,?!]")
_ENDINGS = (".", "!", "?", ")", '"', "'")


def normalize_answer(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def token_f1(said: str, wanted: str) -> float:
    """F1 of the words of two texts in SQuAD's normal form, repeats counted; 0 when they share none."""
    said_words, wanted_words = normalize_answer(said).split(), normalize_answer(wanted).split()
    shared = sum((Counter(said_words) & Counter(wanted_words)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(said_words), shared / len(wanted_words)
    return 2 * precision * recall / (precision + recall)


def normalize_turn(turn: str) -> str:
    """A dialogue turn as ParlAI writes replies: lower case but for the beginnings of sentences and 'I', no space before
    a mark nor around an apostrophe, a full stop at an open end. A turn that begins with a space keeps its small first
    letter, as there."""
    spaced = _MARK.sub(lambda mark: f" {mark[0]}", turn.lower()).replace("'", " ' ")
    words: list[str] = []
    begins = not spaced.startswith(" ") or _MARK.match(turn) is not None
    for word in filter(None, spaced.split(" ")):
        words.append(word[0].upper() + word[1:] if begins or word == "i" else word)
        begins = word in (".", "?", "!")
    text = f" {' '.join(words)} "
    for mark in ".,?!":
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'").strip()
    return text if not text or text.endswith(_ENDINGS) else f"{text}."
