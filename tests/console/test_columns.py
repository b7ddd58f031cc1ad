"""Columns of words fit the terminal, and say every word of theirs.

Needs: nothing.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.console import terminal

WORD = st.text("abc", min_size=1, max_size=12)
CELL = st.lists(WORD, max_size=9).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5), wide=st.integers(60, 200))
def test_every_word_is_said_in_its_column_within_the_width(rows: list[tuple[str, str, str]], wide: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "width", lambda stream=None: wide)
        lines = terminal.columns(rows).split("\n")
    assert max(map(len, lines)) <= wide
    assert sorted(" ".join(lines).split()) == sorted(" ".join(map(" ".join, rows)).split())


def test_a_long_middle_column_leaves_room_for_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "width", lambda stream=None: 60)
    rows = [("rmu", "alpha, layer, steering, length, positions", "pushes a layer's states to a random direction")]
    assert terminal.columns(rows) == (
        "rmu  alpha, layer,       pushes a layer's states to a random\n"
        "     steering, length,   direction\n"
        "     positions"
    )
