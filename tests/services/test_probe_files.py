"""Token files for `icu-ray probe`: padding on either side of a row is padding, and what is doubtful is refused.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icu_ray.errors import UserError
from icu_ray.services.probe import token_rows

PAD, EOS = 1, 0
FILE = Path("rows.npy")


def test_padding_on_the_right_is_padding() -> None:
    texts = [[5, 6, 7, 8], [9, PAD, 4, 3, 2], [5, EOS]]
    left = np.array([[PAD] * (6 - len(text)) + text for text in texts])
    right = np.array([text + [PAD] * (6 - len(text)) for text in texts])
    both = np.array([[PAD] * (5 - len(text)) + text + [PAD] for text in texts])
    wanted = token_rows(left, 10, PAD, EOS, FILE, 3)
    assert wanted.mask.sum(axis=1).tolist() == [4, 5, 2]
    for ids in (right, both):
        rows = token_rows(ids, 10, PAD, EOS, FILE, 3)
        for name in ("input_ids", "mask", "labels", "prompt_ids", "prompt_mask"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(wanted, name))


def test_where_padding_is_the_end_of_text_one_ends_a_text_and_more_are_refused() -> None:
    rows = token_rows(np.array([[EOS, EOS, 5, 6, 7, EOS]]), 10, EOS, EOS, FILE, 3)
    assert rows.mask[0].tolist() == [False, False, True, True, True, True]
    with pytest.raises(UserError, match=r"rows\.npy: row 1 ends with 2 tokens 0, this model's padding and end of text"):
        token_rows(np.array([[EOS, 5, 6, 7], [5, 6, EOS, EOS]]), 10, EOS, EOS, FILE, 3)
