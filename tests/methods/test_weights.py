"""Weights: what spans and reductions mean, and that splitting a batch changes nothing.

Needs: nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import IGNORED_LABEL
from icu_ray.methods.weights import batch_weights

COLUMNS = Columns(10, 3, 6)


def labels(pads: list[int]) -> np.ndarray:
    """Rows of ten tokens with so many pads on the left."""
    return np.array([[IGNORED_LABEL] * n + [5] * (10 - n) for n in pads], dtype=np.int64)


def weights_of(pads: list[int], active: list[bool], **options: str):  # type: ignore[no-untyped-def]
    loss = LossConfig(**options)  # type: ignore[arg-type]
    mask = labels(pads) != IGNORED_LABEL
    return batch_weights(labels(pads), labels(pads), np.array(active), COLUMNS, loss, mask)


def test_token_mean_is_over_all_tokens_of_the_active_rows() -> None:
    weights = weights_of([0, 4, 0], [True, True, False])
    # Nine tokens are predicted in a full row, never the first; what a padded row scores is said by its labels.
    assert weights.target[0].tolist() == [0.0] + [1 / 15] * 9
    assert weights.target[1].tolist() == [0.0] * 4 + [1 / 15] * 6
    assert not weights.target[2].any()
    # The divergence is measured at real tokens; with the authors at padding too.
    assert weights.kl is not None and weights.kl[1].tolist() == [0.0] * 4 + [1 / 16] * 6
    authors = weights_of([0, 4, 0], [True, True, False], kl_positions="padded").kl
    assert authors is not None and authors[1].tolist() == [1 / 20] * 10
    assert weights.row.tolist() == [0.5, 0.5, 0.0]


def test_spans_start_where_the_columns_say() -> None:
    for span, count in (("all", 9), ("prefix_suffix", 7), ("suffix", 4)):
        weights = weights_of([0], [True], span=span, kl_positions="span", reduction="sum")
        assert weights.target.sum() == count
        assert weights.kl is not None
        # Token t is predicted by the distribution after token t - 1.
        assert weights.kl[0].tolist() == [*weights.target[0, 1:], 0.0]


def test_reductions() -> None:
    assert weights_of([0, 4], [True, True], reduction="sum").target.sum() == (9 + 6) / 2
    by_row = weights_of([0, 4], [True, True], reduction="seq_mean").target.sum(axis=1)
    assert by_row.tolist() == pytest.approx([0.5, 0.5])


def test_a_row_without_a_scored_token_does_not_dilute_row_means() -> None:
    weights = weights_of([0, 10], [True, True], reduction="seq_mean")
    assert weights.target.sum(axis=1).tolist() == pytest.approx([1.0, 0.0])


def test_no_active_row_gives_zeros() -> None:
    weights = weights_of([0, 4], [False, False])
    assert weights.empty and not weights.target.any() and weights.kl is not None and not weights.kl.any()


@settings(deadline=None, max_examples=60)
@given(
    pads=st.lists(st.integers(0, 10), min_size=1, max_size=6),
    data=st.data(),
    reduction=st.sampled_from(["token_mean", "seq_mean", "sum"]),
    span=st.sampled_from(["all", "prefix_suffix", "suffix"]),
)
def test_means_are_means_and_inactive_rows_weigh_nothing(
    pads: list[int], data: st.DataObject, reduction: str, span: str
) -> None:
    active = data.draw(st.lists(st.booleans(), min_size=len(pads), max_size=len(pads)))
    weights = weights_of(pads, active, reduction=reduction, span=span)
    assert not weights.target[~np.array(active)].any()
    if reduction != "sum":
        assert weights.target.sum() == pytest.approx(1.0) or not weights.target.any()
    # What remains is as if the forgotten rows had never been in the batch.
    kept = [k for k, alive in enumerate(active) if alive]
    if kept:
        alone = weights_of([pads[k] for k in kept], [True] * len(kept), reduction=reduction, span=span)
        np.testing.assert_allclose(weights.rows(kept).target, alone.target)
        np.testing.assert_allclose(weights.rows(kept).kl, alone.kl)
