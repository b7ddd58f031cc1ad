"""Which tokens count and how much: the span and reduction of equations (1), (3) and (4) as arrays of weights.

A loss is sum over rows b and positions t of weight[b, t] * nll[b, t]. The weights are made from the *whole*
global batch, before it is split into micro batches and ranks, so a mean over all its tokens stays that mean
however the rows are split. Rows that are not active weigh nothing; a batch without an active row has only
zeros. numpy only.

    weights = batch_weights(targets.labels[rows], pairs.labels[rows], active[rows], columns, loss, pairs.mask[rows])
    mine = weights.rows(slice(0, 4))          # this rank's share
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import IGNORED_LABEL

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenRule:
    """Which tokens of a row a method counts, where that is not what the config's `loss` says.

    skip_first: scored tokens at a row's beginning that are left out. positions "padded": all columns, pads too;
    "padded_next": all but the first. reduction: as of `reduce`, None: the config's.
    """

    skip_first: int = 0
    positions: Literal["scored", "padded", "padded_next"] = "scored"
    reduction: str | None = None

    def weights(self, scored: Bools, live: Bools, loss: LossConfig) -> Floats:
        """(B, L). scored: (B, L), which tokens the config counts of live rows; live: (B,)."""
        if self.positions != "scored":
            counted = np.repeat(live[:, None], scored.shape[1], axis=1)
            counted[:, :1] &= self.positions == "padded"
        else:
            counted = scored & (np.cumsum(scored, axis=1) > self.skip_first) if self.skip_first else scored
        return reduce(counted, self.reduction or loss.reduction)


@dataclass(frozen=True)
class BatchWeights:
    """target, pair, kl, alternate: (B, L) float64 as in `Batch`; row: (B,) float64; no pair and kl without pairs."""

    target: Floats
    row: Floats
    pair: Floats | None = None
    kl: Floats | None = None
    alternate: Floats | None = None

    def rows(self, chosen: slice | Sequence[int] | NDArray[np.int64]) -> BatchWeights:
        """The weights of some rows, for a rank or micro batch; they are not scaled up."""
        pick = chosen if isinstance(chosen, slice) else np.asarray(chosen, dtype=np.int64)
        return BatchWeights(
            self.target[pick],
            self.row[pick],
            None if self.pair is None else self.pair[pick],
            None if self.kl is None else self.kl[pick],
            None if self.alternate is None else self.alternate[pick],
        )

    def nothing(self) -> BatchWeights:
        """The same, all zero."""
        return BatchWeights(*(None if part is None else np.zeros_like(part) for part in self._parts))  # type: ignore[arg-type]

    @property
    def _parts(self) -> tuple[Floats | None, ...]:
        return (self.target, self.row, self.pair, self.kl, self.alternate)

    @property
    def empty(self) -> bool:
        """Whether no row of the batch is active."""
        return not self.row.any()


AS_CONFIGURED = TokenRule()


def batch_weights(
    target_labels: NDArray[np.int64],
    pair_labels: NDArray[np.int64] | None,
    active: NDArray[np.bool_],
    columns: Columns,
    loss: LossConfig,
    pair_mask: NDArray[np.bool_] | None = None,
    starts: tuple[NDArray[np.int64] | None, NDArray[np.int64] | None] = (None, None),
    *,
    target_rule: TokenRule = AS_CONFIGURED,
    pair_rule: TokenRule = AS_CONFIGURED,
    alternates: tuple[NDArray[np.int64], NDArray[np.int64] | None] | None = None,
) -> BatchWeights:
    """Weights of a whole global batch.

    target_labels, pair_labels: (B, L) unshifted labels; active: (B,) True for targets that are not yet
    forgotten (the pair's flag is its target's); pair_mask: (B, L) True for real tokens, None: no pair is padded.
    starts: of targets and pairs, (B,) columns at which completions begin, None: rows of the layout `columns`.
    target_rule, pair_rule: the method's. alternates: labels and starts of second answers.
    """
    live = np.asarray(active, dtype=bool)
    scored = scored_tokens(target_labels, columns, loss.span, starts[0]) & live[:, None]
    target = target_rule.weights(scored, live, loss)
    row = live / max(int(live.sum()), 1)
    alternate = None
    if alternates is not None:
        scored = scored_tokens(alternates[0], columns, loss.span, alternates[1]) & live[:, None]
        alternate = reduce(scored, loss.reduction)
    if pair_labels is None:
        return BatchWeights(target, row, alternate=alternate)
    scored = scored_tokens(pair_labels, columns, loss.span, starts[1]) & live[:, None]
    pair = pair_rule.weights(scored, live, loss)
    completions = starts[1] is not None and loss.on == "completion" and loss.kl_positions == "all"
    if loss.kl_positions != "span" and not completions:
        # As the authors, the last position is included, after which nothing comes.
        compared = np.broadcast_to(live[:, None], scored.shape)
        if loss.kl_positions == "all" and pair_mask is not None:
            compared = compared & pair_mask
    else:
        # The distribution that predicts token t stands at position t - 1.
        compared = np.zeros_like(scored)
        compared[:, :-1] = scored[:, 1:]
    return BatchWeights(target, row, pair, reduce(compared, loss.reduction), alternate)


def scored_tokens(
    labels: NDArray[np.int64], columns: Columns, span: str, starts: NDArray[np.int64] | None = None
) -> Bools:
    """(B, L) bool: the tokens t_0 <= t that are predicted; the first token of a row never is.

    starts: (B,) of rows with prompts, whose suffix is the completion and whose prefix is the whole prompt.
    """
    first = {"all": 0, "prefix_suffix": columns.prefix_start, "suffix": columns.suffix_start}[span]
    scored: Bools = labels != IGNORED_LABEL
    scored[:, : max(first if starts is None else 0, 1)] = False
    if starts is not None and span == "suffix":
        scored &= np.arange(labels.shape[1]) >= starts[:, None]
    return scored


def reduce(counted: Bools, reduction: str) -> Floats:
    """(B, L) weights of the tokens in `counted`.

    token_mean: mean over all tokens of the batch together (the authors' code).
    seq_mean: mean over rows of each row's mean.
    sum: sum over a row's tokens (the paper's equations), mean over rows.
    broadcast: sum over a row's tokens times the mean of all rows' 1 / tokens, mean over rows (a slip of
    OpenUnlearning's RMU, kept for comparison).
    """
    ones: Floats = counted.astype(np.float64)
    per_row: Floats = ones.sum(axis=1, keepdims=True)
    rows = max(int((per_row > 0).sum()), 1)
    if reduction == "token_mean":
        total = max(float(per_row.sum()), 1.0)
        return ones / total
    if reduction == "seq_mean":
        ones /= np.maximum(per_row, 1.0)
        return ones / rows
    if reduction == "sum":
        return ones / rows
    if reduction == "broadcast":
        mean = float((1.0 / per_row[per_row > 0]).sum()) / rows
        return ones * (mean / rows)
    raise ValueError(f"unknown reduction {reduction!r}")
