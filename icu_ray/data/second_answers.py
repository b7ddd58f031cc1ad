"""Second answers to the prompts of targets: which stands beside a target in which epoch, and the rows that they make.

    draws = AnswerDraws(targets.ids, counts=(100,) * len(targets), seeds=(42,), epochs=20)
    rows = answered(targets, draws, (SENTENCES,) * len(targets))
    draws.places(seed=42, epoch=3)      # for each target the place of its second answer among these rows

A draw is a SHA-256 of the seed, the epoch and the target's id, and of nothing else: neither batches, workers, a resume
nor other targets decide it. All that can be drawn is known beforehand, so that only these rows are made.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icu_ray.data.examples import Examples

Indices = NDArray[np.int64]
Answers = Literal["sentences", "alternates"]
"""Where second answers come from: sentences of ignorance, or each row's own alternates."""


@dataclass(frozen=True)
class AnswerDraws:
    """What the trials of one forget sample can draw.

    ids: of the N targets. counts: second answers that each has to choose from. seeds: of the trials. epochs: the most
    that a trial has.
    """

    ids: tuple[str, ...]
    counts: tuple[int, ...]
    seeds: tuple[int, ...]
    epochs: int

    def drawn(self, seed: int, epoch: int) -> Indices:
        """(N,) numbers of second answers, each from 0 to its target's count - 1."""
        # 256 bits modulo a small number are uniform but for one part in 2^200.
        digests = (hashlib.sha256(f"answer:{seed}:{epoch}:{name}".encode()).digest() for name in self.ids)
        numbers = (int.from_bytes(d, "big") % count for d, count in zip(digests, self.counts, strict=True))
        return np.fromiter(numbers, dtype=np.int64, count=len(self.ids))

    @functools.cached_property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """(target, number of its second answer) of all that can be drawn, ascending."""
        epochs = range(1, self.epochs + 1)
        drawn = (enumerate(self.drawn(seed, epoch).tolist()) for seed in self.seeds for epoch in epochs)
        return tuple(sorted({pair for each in drawn for pair in each}))

    def places(self, seed: int, epoch: int) -> Indices:
        """(N,) places in `rows`; ValueError for a seed or an epoch that they were not made for."""
        if seed not in self.seeds or not 1 <= epoch <= self.epochs:
            raise ValueError(f"seed {seed}, epoch {epoch}: answers are there for {self.seeds} and {self.epochs} epochs")
        return np.array([self._place[pair] for pair in enumerate(self.drawn(seed, epoch).tolist())], dtype=np.int64)

    @functools.cached_property
    def _place(self) -> dict[tuple[int, int], int]:
        return {pair: place for place, pair in enumerate(self.rows)}


def answered(targets: Examples, draws: AnswerDraws, answers: Sequence[Sequence[str]]) -> Examples:
    """The rows of `draws.rows`: each target's prompt with another completion. answers: those of each target.

    ValueError for targets without prompts.
    """
    if targets.boundaries is None:
        raise ValueError("second answers are for rows with prompts")
    ids, texts, boundaries, chats = [], [], [], []
    for target, number in draws.rows:
        said, boundary = answers[target][number], targets.boundaries[target]
        ids.append(f"{targets.ids[target]}:answer{number}")
        texts.append(_with_completion(targets.texts[target], boundary, said))
        boundaries.append(boundary)
        if targets.chats is not None:
            chats.append(_with_last_message(targets.chats[target], said))
    return Examples(ids, texts, None, None, boundaries, chats if targets.chats is not None else None)


def _with_completion(text: str, boundary: int, said: str) -> str:
    """Blanks before a completion stay: they are what joins it to its prompt."""
    rest = text[boundary:]
    return text[:boundary] + rest[: len(rest) - len(rest.lstrip())] + said


def _with_last_message(chat: str, said: str) -> str:
    told = json.loads(chat)
    told["messages"][-1]["content"] = said
    return json.dumps(told, ensure_ascii=False, sort_keys=True)


def answers_fingerprint(answers: Sequence[Sequence[str]]) -> str:
    """Of what each target has to choose from, for trial ids."""
    told = json.dumps([list(each) for each in answers], ensure_ascii=False)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
