"""A key/value cache in which every open row has the same number of cached tokens.

The probe decodes column by column: rows join with a copy of the truth's keys and values up to their column and leave
when they end, so each step is one plain batched forward without padding. Buffers are allocated once at full length;
a step writes one column in place and attention reads a view, nothing is concatenated.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin


class _ColumnLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values (rows, heads, length, head width), allocated when the first states arrive."""

    def __init__(self, owner: ColumnCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for all rows with the states' heads, widths, dtypes and device."""
        self.allocate(key_states, value_states)

    def allocate(self, keys: Tensor, values: Tensor) -> None:
        """Buffers like these states, for the owner's rows and length."""
        rows, length = self.owner.rows, self.owner.length
        self.keys = keys.new_zeros((rows, keys.shape[1], length, keys.shape[3]))
        self.values = values.new_zeros((rows, values.shape[1], length, values.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of the open rows; returns views of all their columns so far."""
        if not self.is_initialized:
            self.allocate(key_states, value_states)
        assert self.keys is not None and self.values is not None
        opened, column = self.owner.opened, self.owner.column
        end = column + key_states.shape[2]
        self.keys[opened, :, column:end] = key_states
        self.values[opened, :, column:end] = value_states
        return self.keys[opened, :, :end], self.values[opened, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(length of keys, offset) for the attention mask."""
        return self.owner.column + query_length, 0

    def get_seq_length(self) -> int:
        """Cached tokens of every open row."""
        return self.owner.column

    def get_max_length(self) -> int:
        """Columns that fit."""
        return self.owner.length


class ColumnCache(Cache):
    """Cache of `rows` sequences of up to `length` tokens; a forward sees only the rows and columns opened for it."""

    def __init__(self, config: PretrainedConfig, rows: int, length: int) -> None:
        self.rows = rows
        self.length = length
        self.opened = slice(0, rows)
        self.column = 0
        layers = config.get_text_config().num_hidden_layers
        super().__init__(layers=[_ColumnLayer(self) for _ in range(layers)])

    def open(self, rows: slice, column: int) -> None:
        """The next forward is for these rows, which have `column` cached tokens."""
        self.opened = rows
        self.column = column

    def join(self, truth: ColumnCache, sources: Tensor, at: int, column: int) -> None:
        """Rows at.. become copies of truth's rows `sources`, first `column` tokens."""
        end = at + len(sources)
        for mine, theirs in zip(self._buffers(truth), truth._buffers(truth), strict=True):
            mine[at:end, :, :column] = theirs[:, :, :column].index_select(0, sources)

    def keep(self, rows: Tensor, column: int) -> None:
        """Move the rows that go on to the front; `column` is the number of cached tokens."""
        for buffer in self._buffers(self):
            buffer[: len(rows), :, :column] = buffer[:, :, :column].index_select(0, rows)

    def _buffers(self, like: ColumnCache) -> list[Tensor]:
        """All key and value buffers, allocated as `like`'s are."""
        buffers: list[Tensor] = []
        for mine, theirs in zip(self.layers, like.layers, strict=True):
            assert isinstance(mine, _ColumnLayer) and isinstance(theirs, _ColumnLayer)
            assert theirs.keys is not None and theirs.values is not None
            if not mine.is_initialized:
                mine.allocate(theirs.keys, theirs.values)
            assert mine.keys is not None and mine.values is not None
            buffers += [mine.keys, mine.values]
        return buffers


def cache_bytes_per_row(cache: ColumnCache) -> int:
    """Bytes of one row of a cache that has been written to."""
    return sum(b[0].numel() * b.element_size() for b in cache._buffers(cache))
