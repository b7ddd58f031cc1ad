"""Which rows make which batch of which epoch, and which rank trains on them: pure functions of seed and epoch.

Nothing is carried from epoch to epoch, so a resumed trial sees exactly the batches it would have seen. Ranks take
disjoint parts of a global batch (the authors' ranks all train on the same one).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import TrainConfig
from icu_ray.data.pair_draws import draw_targets

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class EpochRows:
    """What an epoch runs over, S places: batches are made of their numbers.

    targets, pairs: (S,) which row of each stands there; no pairs for methods without. live: (S,) False for a target
    that is forgotten, which weighs nothing.
    """

    targets: Indices
    pairs: Indices | None
    live: Flags


def over_targets(active: Flags, beside: Indices | None) -> EpochRows:
    """train.anchor=forget: every target once. active: (N,) rows of targets; beside: (N,) rows of pairs."""
    return EpochRows(np.arange(len(active)), beside, active)


def over_pool(active: Flags, pool: int, *, seed: int, epoch: int) -> EpochRows:
    """train.anchor=retain: every row of the pool once, each beside one of the active targets; none where none is."""
    left = np.flatnonzero(active)
    if not len(left):
        return EpochRows(left, left, active[:0])
    targets = left[draw_targets(seed, epoch, pool, len(left))]
    return EpochRows(targets, np.arange(pool), np.ones(pool, dtype=bool))


def epoch_batches(active: Flags, *, seed: int, epoch: int, batch_size: int, settings: TrainConfig) -> list[Indices]:
    """Global batches of an epoch's places (with train.anchor=forget: of targets), in order. active: which are live.

    'slots' (the authors): all targets are permuted and the forgotten keep their place, where they weigh nothing and are
    not computed; batches without an active target are dropped ('skip') or kept for their momentum step ('momentum').
    'repack': only active targets are permuted, so the epoch gets shorter.
    """
    candidates = np.arange(len(active)) if settings.batching == "slots" else np.flatnonzero(active)
    order = np.random.default_rng([seed, epoch]).permutation(candidates).astype(np.int64)
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    if settings.batching == "slots" and settings.empty_batch == "skip":
        batches = [batch for batch in batches if active[batch].any()]
    return batches


def micro_batches(count: int, *, rank: int, world_size: int, micro_batch: int) -> list[slice]:
    """This rank's share of `count` rows as slices of at most `micro_batch`, as many on every rank.

    Shares are disjoint, cover the rows and differ by one row at most. Where there are too few rows, slices are empty:
    every rank makes the same number of steps, and at least one, because the engine's collectives need them all.
    """
    steps = max(-(-count // (world_size * micro_batch)), 1)
    edges = [count * part // (world_size * steps) for part in range(world_size * steps + 1)]
    mine = edges[rank * steps : (rank + 1) * steps + 1]
    return [slice(a, b) for a, b in itertools.pairwise(mine)]
