"""Rows of tokens as arrays of one width: they end at the right, pads stand at the left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def left_pad(rows: Sequence[Sequence[int]], length: int, pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N, length) int64 ids and (N, length) bool mask, True where a real token stands; rows are at most that long."""
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.bool_)
    for number, row in enumerate(rows):
        if row:
            ids[number, length - len(row) :] = row
            mask[number, length - len(row) :] = True
    return ids, mask
