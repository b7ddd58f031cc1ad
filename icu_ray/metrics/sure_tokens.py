"""How a greedy answer begins, as far as one forward over a likely answer makes that sure.

openings = surely_said(model, prompts, likely)         # openings of rouge.greedy_answers
counts = sure_tokens(scores)                           # of a row that was read already
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import AnswerRow, AnswerScores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SURE = 0.6
"""Probability of a token that is the most probable one, however bfloat16 rounds: others have 0.4 together."""


def surely_said(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    likely: Sequence[Sequence[int]],
    masked: int | None = None,
    sure: Mapping[AnswerRow, int] | None = None,
    most: int | None = None,
) -> list[tuple[int, ...]]:
    """With which of its likely tokens the greedy answer to each prompt begins for sure: openings of `greedy_answers`.

    sure: `sure_tokens` of rows that this model has read already, without masked tokens. most: tokens of an answer that
    matter. masked: id of tokens that
    attention does not see in a prompt. Of a prompt with such tokens nothing is sure: step after step positions are
    counted without them, in one forward with them.
    """
    known = [[] if masked in prompts[place] else _before(tokens, masked) for place, tokens in enumerate(likely)]
    asked = [place for place, tokens in enumerate(known) if len(prompts[place]) and tokens]
    counts = dict(sure or {})
    rows = [AnswerRow.after([*prompts[place], *known[place]], len(prompts[place])) for place in asked]
    # A row that was read stands for its beginning; of one that was not no more is read than can be said.
    for number, place in enumerate(asked):
        if most is not None and rows[number] not in counts:
            rows[number] = AnswerRow.after([*prompts[place], *known[place][:most]], len(prompts[place]))
    missing = [row for row in rows if row not in counts]
    read = answer_scores(model, missing, in_detail=[False] * len(missing))
    counts.update(zip(missing, map(sure_tokens, read), strict=True))
    openings: list[tuple[int, ...]] = [() for _ in prompts]
    for place, row in zip(asked, rows, strict=True):
        openings[place] = tuple(known[place][: counts[row]][:most])
    return openings


def sure_tokens(scores: AnswerScores) -> int:
    """How many of a row's scored tokens are said for sure, one after the other.

    A token is sure that has the probability SURE or more, so that rounding, which differs between one forward and step
    after step, cannot change what is said.
    """
    unsure = np.flatnonzero(~(scores.log_probs >= math.log(SURE)))
    return int(unsure[0]) if len(unsure) else len(scores)


def _before(tokens: Sequence[int], masked: int | None) -> list[int]:
    """The tokens before the first masked one, which steps see among what was said, and a forward does not."""
    found = list(tokens)
    return found[: found.index(masked)] if masked is not None and masked in found else found
