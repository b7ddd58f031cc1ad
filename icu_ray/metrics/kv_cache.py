"""Key/value caches in which every open row has the same number of cached tokens.

The probe decodes column by column: rows join at their column and leave when they end, so each step is one plain
batched forward without padding. `ColumnCache` holds whole sequences (the truth); `TailCache` holds continuations of
them: the columns that all continuations share stay where they are, a row keeps only those from the first continuation
on. Buffers are allocated once; a step writes one column in place, nothing is concatenated.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from icu_ray.metrics.prefixed import Grouping, PrefixedStates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOGITS_AT_ONCE = 64 * 1024 * 1024
"""Numbers (tokens x vocabulary) that may exist at one time: 256 MB in fp32."""
TOKENS_AT_ONCE_ON_CPU = 1024
"""Tokens of a forward on a CPU: what lies between layers stays in its caches (1.6 times faster than 12,800)."""


def sequences_at_once(model: PreTrainedModel, length: int) -> int:
    """How many sequences of `length` tokens one forward should take."""
    tokens = LOGITS_AT_ONCE // int(model.config.get_text_config().vocab_size)
    if model.device.type == "cpu":
        tokens = min(tokens, TOKENS_AT_ONCE_ON_CPU)
    return max(1, tokens // length)


def bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token, of every layer."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * model.dtype.itemsize)


class _ColumnLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values (rows, heads, columns, width), allocated when the first states arrive."""

    keys: Tensor
    values: Tensor

    def __init__(self, owner: ColumnCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the owner's rows and columns with the states' heads, widths, dtypes and device."""
        rows, columns = self.owner.rows, self.owner.length - self.owner.first
        # Unfilled: only what has been written is ever read.
        self.keys = key_states.new_empty((rows, key_states.shape[1], columns, key_states.shape[3]))
        self.values = value_states.new_empty((rows, value_states.shape[1], columns, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns of the open rows; returns all their columns so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, begin = self.owner.opened, self.owner.column - self.owner.first
        end = begin + key_states.shape[2]
        self.keys[rows, :, begin:end] = key_states
        self.values[rows, :, begin:end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]

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
    """Cache of `rows` sequences of up to `length` tokens; a forward sees only the rows and columns opened for it.

    Buffers hold the columns from `first` on.
    """

    def __init__(self, config: PretrainedConfig, rows: int, length: int) -> None:
        self.rows = rows
        self.length = length
        self.first = 0
        self.opened = slice(0, rows)
        self.column = 0
        super().__init__(layers=[_ColumnLayer(self) for _ in range(config.get_text_config().num_hidden_layers)])

    @property
    def column_layers(self) -> list[_ColumnLayer]:
        """The layers, with their type."""
        return cast("list[_ColumnLayer]", self.layers)

    def open(self, rows: slice, column: int) -> None:
        """The next forward is for these rows, which have `column` cached tokens."""
        self.opened = rows
        self.column = column

    def bytes_per_column(self) -> int:
        """Bytes of one column of one row of a cache that has been written to."""
        buffers = [buffer for layer in self.column_layers for buffer in (layer.keys, layer.values)]
        return sum(b[0, :, 0].numel() * b.element_size() for b in buffers)


class _TailLayer(_ColumnLayer):  # type: ignore[no-untyped-call]
    """A row's own columns, behind the prefix that the rows of one sequence share."""

    owner: TailCache

    def __init__(self, owner: TailCache, truth: _ColumnLayer, sequences: Tensor) -> None:
        super().__init__(owner)
        every = len(sequences) == len(truth.keys)
        self.truth_keys = truth.keys if every else truth.keys.index_select(0, sequences)
        self.truth_values = truth.values if every else truth.values.index_select(0, sequences)
        self.lazy_initialization(truth.keys, truth.values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new column of the open rows; returns all their columns, the shared ones included."""
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        first, grouping = self.owner.first, self.owner.grouping
        return (
            PrefixedStates(self.truth_keys[:, :, :first], keys, grouping),
            PrefixedStates(self.truth_values[:, :, :first], values, grouping),
        )


class TailCache(ColumnCache):
    """Cache of up to `rows` continuations of sequences of `truth`, none of which begins before column `first` >= 1.

    length: columns that fit, those of the prefix included. sequences: (S,) int64, rows of truth that are continued,
    ascending; a row's source is an index into them.
    """

    grouping: Grouping

    def __init__(self, truth: ColumnCache, sequences: Tensor, rows: int, first: int, length: int) -> None:
        self.rows = rows
        self.length = length
        self.first = first
        self.opened = slice(0, 0)
        self.column = first
        self.sources = sequences[:0]
        Cache.__init__(self, layers=[_TailLayer(self, layer, sequences) for layer in truth.column_layers])

    def join(self, sources: Tensor, column: int) -> None:
        """New open rows that continue these sequences, of which they have the first `column` tokens."""
        begin = len(self.sources)
        self.sources = torch.cat([self.sources, sources])
        for layer in cast("list[_TailLayer]", self.layers):
            for own, truth in ((layer.keys, layer.truth_keys), (layer.values, layer.truth_values)):
                copied = truth[:, :, self.first : column].index_select(0, sources)
                own[begin : len(self.sources), :, : column - self.first] = copied
        self.grouping = Grouping.of(self.sources)

    def keep(self, rows: Tensor, column: int) -> None:
        """Of the open rows these go on, in this order (one may go on twice); `column`: number of cached tokens."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        sources, columns = rows[moved], slice(0, column - self.first)
        if len(moved) > 0:
            for layer in self.column_layers:
                for own in (layer.keys, layer.values):
                    own[moved, :, columns] = own[sources, :, columns]
        if len(rows) < len(self.sources) or len(moved) > 0:
            self.sources = self.sources[rows]
            self.grouping = Grouping.of(self.sources)

    def drop_ended(self) -> Tensor | None:
        """Let go of the sequences that no open row continues, if they are enough for it to pay; no row may join then.

        Returns the places of those that stay, ascending, or None where all do.
        """
        needed, renumbered = cast("tuple[Tensor, Tensor]", torch.unique(self.sources, return_inverse=True))
        layers = cast("list[_TailLayer]", self.layers)
        # Rows of their own sequences are read without a search for them once no other sequence is left.
        held = len(layers[0].truth_keys)
        if len(needed) == held or (self.grouping.width > 1 and 2 * len(needed) > held):
            return None
        for layer in layers:
            layer.truth_keys = layer.truth_keys[needed, :, : self.first]
            layer.truth_values = layer.truth_values[needed, :, : self.first]
        self.sources, self.grouping = renumbered, Grouping.of(renumbered)
        return needed


class CachedModel:
    """A model that reads some tokens of each row after those in a cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        asked = inspect.signature(model.forward).parameters
        self.model = model
        self.counts_positions, self.chooses_logits = "position_ids" in asked, "logits_to_keep" in asked

    def logits(self, ids: Tensor, mask: Tensor | None, cache: ColumnCache, count: int) -> Tensor:
        """(n, count, V) float32 of the last `count` places of the cache's open rows.

        ids: (n, T) int64. mask: (n, cached + T) bool, True where a real token stands; None: no pads.
        """
        options: dict[str, Tensor | int] = {"logits_to_keep": count} if self.chooses_logits else {}
        if mask is not None:
            options["attention_mask"] = seen = mask.long()
            if self.counts_positions:
                options["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits: Tensor = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **options).logits
        return logits[:, -count:].float()


class Continuations:
    """One continuation of each prompt: those that go on are the first rows of one cache.

    ids: (N, P) int64 left-padded prompts. mask: (N, P) bool, True where a real token stands; None: no pads. Where a
    prompt has several continuations, beam_search.PromptStates reads it once for all.
    """

    def __init__(self, model: PreTrainedModel, ids: Tensor, mask: Tensor | None, new_tokens: int) -> None:
        self.model, self.ids, self.mask = CachedModel(model), ids, mask
        self.cache = ColumnCache(model.config, len(ids), ids.shape[1] + new_tokens)

    def first(self) -> Tensor:
        """(N, V) logits of the first new token."""
        width, found = self.ids.shape[1], []
        for begin in range(0, len(self.ids), at_once := sequences_at_once(self.model.model, width)):
            block = slice(begin, min(begin + at_once, len(self.ids)))
            self.cache.open(block, 0)
            mask = None if self.mask is None else self.mask[block]
            found.append(self.model.logits(self.ids[block], mask, self.cache, 1)[:, 0])
        return torch.cat(found)

    def keep(self, going: Sequence[int], generated: int) -> list[int]:
        """Of the open rows these go on, ascending; in which order they stand from now on. generated: tokens of each."""
        column = self.ids.shape[1] + generated - 1  # the last of them has not been read yet
        order, open_rows = list(range(len(going))), set(going)
        moved = [row for row in going if row >= len(going)]
        ended = [row for row in order if row not in open_rows]
        for place, row in zip(ended, moved, strict=True):
            order[place] = row
        if moved:
            for own in (part for layer in self.cache.column_layers for part in (layer.keys, layer.values)):
                own[ended, :, :column] = own[moved, :, :column]
            if self.mask is not None:
                self.mask[ended] = self.mask[moved]
        return order

    def next(self, tokens: Tensor, generated: int) -> Tensor:
        """(R, V) logits after each open row's newest token (R,), which is its number `generated`."""
        self.cache.open(slice(0, len(tokens)), self.ids.shape[1] + generated - 1)
        mask = None
        if self.mask is not None:
            mask = torch.nn.functional.pad(self.mask[: len(tokens)], (0, generated), value=True)
        return self.model.logits(tokens[:, None], mask, self.cache, 1)[:, 0]
