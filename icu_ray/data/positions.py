"""Positions of tokens in rows that are padded on the left: they count real tokens, as where the text stands alone.

    model(input_ids=ids, attention_mask=mask, **position_options(model, positions))

Importing this module does not import torch.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn


def real_positions(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N, L) of left-padded rows, `mask` True where a real token stands: the real tokens before each; 0 at pads."""
    positions: NDArray[np.int64] = np.maximum(np.cumsum(mask, axis=1, dtype=np.int64) - 1, 0)
    return positions


def position_options(module: nn.Module, positions: Tensor | None) -> dict[str, Tensor]:
    """Positions as arguments of a model's forward; none for models that take none, which count from the mask (ALiBi).

    One that counts pads is refused when it is loaded (models/architecture.py).
    """
    if positions is None or "position_ids" not in inspect.signature(module.forward).parameters:
        return {}
    return {"position_ids": positions}
