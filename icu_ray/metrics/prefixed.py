"""Keys and values of rows that continue a common prefix, without a copy of the prefix for every row.

The probe decodes up to 41 continuations of one sequence at a time, which differ in their last columns only. Attention
over the prefix is then one matrix product for all rows of a sequence (its keys are read once, not once a row), and
only the columns of their own are read row by row. On two cores that made decoding about four times faster.

A model meets `PrefixedStates` where it expects a tensor (rows, heads, columns, width). Scaled-dot-product attention,
and the products of the models that write attention out (GPT-Neo), are computed by parts; any other operation gets the
whole tensor, so that every causal LM with a cache is measured rightly, at worst at the speed of copied rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class Grouping:
    """Which sequence each row continues, and the row's rank among those that continue the same one.

    sources, ranks: (rows,) int64; sequences: 1 + the last source, so that those behind it, whose rows have all ended,
    cost nothing; width: the largest number of rows that continue one sequence. apart: whether the rows continue all
    sequences in order, one each.
    """

    sources: Tensor
    ranks: Tensor
    sequences: int
    width: int
    apart: bool = False

    @staticmethod
    def of(sources: Tensor) -> Grouping:
        """For rows that continue the sequences `sources` (rows,)."""
        order = sources.argsort(stable=True)
        counts = torch.bincount(sources, minlength=1)
        firsts = counts.cumsum(0) - counts
        ranks = torch.empty_like(sources)
        ranks[order] = torch.arange(len(sources), device=sources.device) - firsts[sources[order]]
        # As many rows as sequences, none with two: every sequence has one, and in order they are counted from 0.
        width = int(counts.max())
        apart = width == 1 and len(counts) == len(sources) and bool((order.diff() > 0).all())
        return Grouping(sources, ranks, len(counts), width, apart)

    def times(self, rows: Tensor, shared: Tensor) -> Tensor:
        """rows (R, heads, q, k) @ shared (sequences, heads, k, n), each row with its own sequence: (R, heads, q, n)."""
        if self.apart:
            return rows @ shared[: self.sequences]
        _, heads, queries, inner = rows.shape
        grid = rows.new_zeros((self.sequences, heads, self.width, queries, inner))
        grid.transpose(1, 2)[self.sources, self.ranks] = rows
        product = grid.flatten(2, 3) @ shared[: self.sequences]
        product = product.view(self.sequences, heads, self.width, queries, -1).transpose(1, 2)
        return product[self.sources, self.ranks]


class PrefixedStates(Tensor):
    """(rows, heads, columns, width): `shared` (sequences, heads, prefix, width) by `grouping`, then each row's `own`.

    turned: the same with its last two dimensions exchanged.
    """

    shared: Tensor
    own: Tensor
    grouping: Grouping
    turned: bool

    @staticmethod
    def __new__(cls, shared: Tensor, own: Tensor, grouping: Grouping, turned: bool = False) -> PrefixedStates:
        rows, heads, columns, width = own.shape
        columns += shared.shape[2]
        shape = (rows, heads, width, columns) if turned else (rows, heads, columns, width)
        made: PrefixedStates = Tensor._make_wrapper_subclass(cls, shape, dtype=own.dtype, device=own.device)
        made.shared, made.own, made.grouping, made.turned = shared, own, grouping, turned
        return made

    def whole(self) -> Tensor:
        """The plain tensor that this stands for."""
        joined = torch.cat([self.shared.index_select(0, self.grouping.sources), self.own], dim=2)
        return joined.transpose(2, 3) if self.turned else joined

    def scores(self, query: Tensor) -> Tensor:
        """query @ keys^T, where this holds keys, turned or not: (rows, heads, queries, columns)."""
        prefix = self.grouping.times(query, self.shared.transpose(2, 3))
        return torch.cat([prefix, query @ self.own.transpose(2, 3)], dim=-1)

    def mixed(self, weights: Tensor) -> Tensor:
        """weights @ values, where this holds values: (rows, heads, queries, width)."""
        prefix = self.shared.shape[2]
        return self.grouping.times(weights[..., :prefix], self.shared) + weights[..., prefix:] @ self.own

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            return super().__torch_function__(func, types, args, dict(kwargs))  # type: ignore[no-untyped-call]
        by_parts = _BY_PARTS.get(func)
        found = NotImplemented if by_parts is None else by_parts(*args, **kwargs)
        if found is not NotImplemented:
            return found
        args, kwargs = tree_map_only(PrefixedStates, PrefixedStates.whole, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{func} reached a tensor that has no memory of its own")


def _transpose(states: PrefixedStates, first: int, second: int) -> Any:
    if {first % 4, second % 4} != {2, 3}:
        return NotImplemented
    return PrefixedStates(states.shared, states.own, states.grouping, not states.turned)


def _to(states: PrefixedStates, *target: Any, **options: Any) -> Any:
    if options or len(target) != 1 or not isinstance(target[0], torch.dtype):
        return NotImplemented
    if target[0] == states.own.dtype:
        return states
    return PrefixedStates(states.shared.to(target[0]), states.own.to(target[0]), states.grouping, states.turned)


def _matmul(left: Tensor, right: Tensor) -> Any:
    if isinstance(left, PrefixedStates) or not isinstance(right, PrefixedStates) or left.shape[:2] != right.shape[:2]:
        return NotImplemented
    return right.scores(left) if right.turned else right.mixed(left)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Scaled-dot-product attention of one query token a row; query heads that share a key head are its queries."""
    if not (isinstance(key, PrefixedStates) and isinstance(value, PrefixedStates)) or isinstance(query, PrefixedStates):
        return NotImplemented
    rows, heads, queries, width = query.shape
    kept = key.own.shape[1]
    if is_causal or dropout_p or (heads != kept and (queries > 1 or attn_mask is not None)):
        return NotImplemented
    folded = query.reshape(rows, kept, -1, width) * (width**-0.5 if scale is None else scale)
    scores = key.scores(folded)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return value.mixed(weights).reshape(rows, heads, queries, -1)


_METADATA = {Tensor.size, Tensor.dim, Tensor.__len__, Tensor.is_floating_point} | {
    getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "requires_grad")
}
_BY_PARTS: dict[Any, Callable[..., Any]] = {
    Tensor.transpose: _transpose,
    torch.transpose: _transpose,
    Tensor.to: _to,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    torch.matmul: _matmul,
    torch.nn.functional.scaled_dot_product_attention: _attention,
}
