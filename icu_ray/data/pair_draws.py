"""Pairs drawn at random (pairs.by=random): which row of the pool stands beside which target, in which epoch.

    draws = PairDraws(targets=128, pool=15000, seeds=(0, 1, 2), epochs=20)
    draws.pool_rows                     # all pool rows that these seeds can draw, ascending: the rows made beforehand
    draws.places(seed=1, epoch=3)       # for each target the place of its pair among them

Each draw is a SHA-256 of what it depends on: no random generator, so no version of one, decides it, and neither
batches, workers, a resume nor other seeds do. Targets are drawn with replacement: two may get the same row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import SweepConfig

Indices = NDArray[np.int64]


def draw_pairs(seed: int, epoch: int, targets: int, pool: int) -> Indices:
    """(targets,) int64 in 0..pool-1: the number of each target's row in the pool, uniform and each for itself.

    epoch: from 1; 0 for pairs that are drawn once.
    """
    return _draw("pair", seed, epoch, targets, pool)


def draw_targets(seed: int, epoch: int, rows: int, targets: int) -> Indices:
    """(rows,) int64 in 0..targets-1: beside each of so many pool rows one of so many active targets, uniform."""
    return _draw("target", seed, epoch, rows, targets)


def _draw(what: str, seed: int, epoch: int, count: int, among: int) -> Indices:
    # 256 bits modulo a number of rows are uniform but for one part in 2^200.
    digests = (hashlib.sha256(f"{what}:{seed}:{epoch}:{number}".encode()).digest() for number in range(count))
    return np.fromiter((int.from_bytes(digest, "big") % among for digest in digests), dtype=np.int64, count=count)


@dataclass(frozen=True)
class PairDraws:
    """What the trials of one forget sample can draw.

    targets, pool: how many there are. seeds: of the trials. epochs: the most that a trial has, 0 where pairs are drawn
    once. whole: every row of the pool is a pair (train.anchor=retain). overlap: of pairs that are drawn once, by seed
    the share of each target's 10-grams that its pair holds too.
    """

    targets: int
    pool: int
    seeds: tuple[int, ...]
    epochs: int
    whole: bool = False
    overlap: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def drawn(self, seed: int, epoch: int) -> Indices:
        """(targets,) numbers of pool rows."""
        return draw_pairs(seed, epoch if self.epochs else 0, self.targets, self.pool)

    def all_drawn(self, seed: int) -> Indices:
        """(targets * epochs,) of a seed, one epoch after the other; of pairs that are drawn once (targets,)."""
        epochs = range(1, self.epochs + 1) if self.epochs else (0,)
        return np.concatenate([self.drawn(seed, epoch) for epoch in epochs])

    @functools.cached_property
    def pool_rows(self) -> Indices:
        """(U,) ascending numbers of the pool rows that can be drawn."""
        if self.whole:
            return np.arange(self.pool)
        return np.unique(np.concatenate([self.all_drawn(seed) for seed in self.seeds]))

    def places(self, seed: int, epoch: int) -> Indices:
        """(targets,) places in `pool_rows`; ValueError for a seed or an epoch that they were not made for."""
        if seed not in self.seeds or (self.epochs and not 1 <= epoch <= self.epochs):
            raise ValueError(f"seed {seed}, epoch {epoch}: pairs are there for {self.seeds} and {self.epochs} epochs")
        return np.searchsorted(self.pool_rows, self.drawn(seed, epoch)).astype(np.int64)


def pair_draws(config: SweepConfig, epochs: int, targets: int, pool: int) -> PairDraws | None:
    """Of a config's trials of at most so many epochs; None where pairs are not drawn (pairs.by)."""
    if config.pairs.by != "random":
        return None
    anew = config.pairs.resample == "epoch"
    return PairDraws(targets, pool, config.all_seeds, epochs if anew else 0, config.train.anchor == "retain")
