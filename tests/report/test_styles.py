"""Colours, lines and markers of figures: every method is told from every other, and from the paper.

Needs: nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.methods import BUILT_IN, method_class
from icu_ray.report.figures.theme import DARK, LIGHT, Theme, styles
from icu_ray.report.numbers.rows import Block, Row
from tests.support.contrast import contrast

TRAINING = tuple(name for name in BUILT_IN if method_class(name).trains)
MANY = (*TRAINING, *(f"mine{number}" for number in range(24 - len(TRAINING))))
both_themes = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


def block_of(cells: Sequence[tuple[str, int]]) -> Block:
    """A model on which each method has so many cells."""
    rows = []
    for method, count in cells:
        weights = (0.5, 1.0) if method == "icu" else (None, None)  # without one of its losses it is another method
        rows += [Row(method, method, *weights, f"lr={number}", (), {}, {}) for number in range(count)]
    return Block("small", None, True, tuple(rows))


@both_themes
def test_twenty_four_methods_are_told_apart(theme: Theme) -> None:
    assert len(set(MANY)) == 24
    found = styles(theme, [block_of([(method, 1) for method in MANY])])
    assert len(found) == len(set(found.values())) == 24
    # Colours are shared, so marks must not be.
    shared = Counter(style.color for style in found.values())
    assert max(shared.values()) > 1
    for color in shared:
        same = [style for style in found.values() if style.color == color]
        assert len({style.marker for style in same}) == len(same)


@both_themes
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=24))
def test_cells_of_all_of_them_are_too(theme: Theme, counts: list[int]) -> None:
    found = styles(theme, [block_of(list(zip(MANY, counts, strict=False)))])
    assert len(set(found.values())) == len(found) == sum(counts)


@both_themes
def test_colours_stand_out_from_the_paper(theme: Theme) -> None:
    for color in (*dict(theme.methods).values(), *theme.rest):
        assert contrast(color, theme.paper) >= 3, color  # WCAG 2 for lines and marks
    found = styles(theme, [block_of([(method, 6) for method in MANY])])
    assert min(contrast(style.color, theme.paper) for style in found.values()) >= 3


@both_themes
def test_a_method_keeps_its_colour_whatever_stands_beside_it(theme: Theme) -> None:
    known = dict(theme.methods)
    assert set(known) <= set(TRAINING)
    for order in (MANY, MANY[::-1]):
        found = styles(theme, [block_of([(method, 1) for method in order])])
        by_method = {name.split(" ")[0]: style.color for name, style in found.items()}
        assert {method: by_method[method] for method in known} == known
