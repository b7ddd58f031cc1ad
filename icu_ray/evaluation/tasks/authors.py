"""What of the authors' tasks the YAML format cannot say (spec section 3). lm-eval loads this file by its path."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from icu_ray.evaluation.texts import normalize_answer

CANDIDATES = 4
_OPTION = re.compile(r"[a-d] \) (?P<upto_comma>.*?), |e \) (?P<rest>.*)$")
FILLER = "just for work"
"""The candidate that the authors add, without a space before it, where a question has fewer than four."""


def arc_choices(doc: Mapping[str, Any]) -> list[str]:
    """Four candidates: a missing one is filled up, of five the first four, or the last four when the fifth is right."""
    texts = [f" {text}" for text in doc["choices"]["text"]]
    if len(texts) < CANDIDATES:
        return [*texts, FILLER]
    return texts[-CANDIDATES:] if _cut_at_front(doc) else texts[:CANDIDATES]


def arc_answer(doc: Mapping[str, Any]) -> int:
    """Number of the right candidate among `arc_choices`."""
    labels: list[str] = list(doc["choices"]["label"])
    return labels.index(doc["answerKey"]) - (len(labels) - CANDIDATES if _cut_at_front(doc) else 0)


def _cut_at_front(doc: Mapping[str, Any]) -> bool:
    labels = doc["choices"]["label"]
    return len(labels) > CANDIDATES and doc["answerKey"] == labels[-1]


def mathqa_choices(doc: Mapping[str, Any]) -> list[str]:
    """The texts of "a ) 24 , b ) 120 , ... , e ) 1024": of a to d up to the next comma, of e all the rest."""
    found = _OPTION.finditer(doc["options"])
    return [(option["upto_comma"] or option["rest"] or "").rstrip(" ,") for option in found]


def lambada(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """acc: the greedy tokens are the word's, or say it but for case, punctuation and articles.

    results: one (log-likelihood, greedy) pair, with the greedy tokens' text as a third value where it is known.
    """
    _, greedy, *text = results[0]
    word = doc["text"].split(" ")[-1]
    return {"acc": float(greedy or (bool(text) and normalize_answer(text[0]) == normalize_answer(word)))}
