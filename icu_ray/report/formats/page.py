"""A report as one HTML file that asks for nothing else: styles and pictures are inside, for light and dark.

    html = to_html(report, pictures, light, dark)

Everything that a model said, and every name, is escaped by the template (page.html.jinja).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from icu_ray.report.contents import Report, state_word
from icu_ray.report.figures.case_study import marked_words
from icu_ray.report.figures.pictures import Picture
from icu_ray.report.figures.theme import DPI
from icu_ray.report.formats import wording
from icu_ray.report.formats.glossary import GLOSSARY
from icu_ray.report.formats.templates import template
from icu_ray.report.numbers.elsewhere import elsewhere_text

_TEMPLATE = "page.html.jinja"
_CSS_DPI = 96
_LONG = 160
"""Characters of a text in a table of rows; a longer one is cut there, and opens whole."""


@dataclass(frozen=True)
class Chart:
    """A picture as data URLs of its light and dark form; width and height in CSS pixels."""

    picture: Picture
    light: str
    dark: str
    width: int
    height: int


def to_html(report: Report, pictures: Sequence[Picture], light: Mapping[str, bytes], dark: Mapping[str, bytes]) -> str:
    """The page; light, dark: PNG bytes by picture name. Case studies stand in it as text, not as pictures."""
    charts = []
    for picture in pictures:
        if picture.case is None:
            width, height = (round(pixels * _CSS_DPI / DPI) for pixels in png_size(light[picture.name]))
            charts.append(Chart(picture, _url(light[picture.name]), _url(dark[picture.name]), width, height))
    return template(_TEMPLATE).render(
        report=report,
        headings=report.target_headings,
        columns=(*report.columns, *report.score_columns),
        weights=[name for name, shown in zip(("alpha", "beta"), report.weighted, strict=True) if shown],
        notes=any(test.test.note for test in report.tests),
        charts=charts,
        cases=[picture for picture in pictures if picture.case is not None],
        marked=marked_words,
        cut=cut_words,
        runs=_runs,
        standing=wording.standing_of,
        wording=wording,
        elsewhere_text=elsewhere_text,
        word=state_word,
        glossary=GLOSSARY,
    )


def cut_words(text: str, words: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]] | None:
    """The beginning of a long text as (word, leaked); None for a short one, which is shown whole.

    words: the text's own, where they are marked.
    """
    if len(text) <= _LONG:
        return None
    shown: list[tuple[str, bool]] = []
    left = _LONG
    for word, leaked in words or [(word, False) for word in text.split()]:
        if shown and len(word) > left:
            break
        shown.append((word[:left], leaked))
        left -= len(word) + 1
    return shown


def _runs(words: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Words that stand together and are alike, as one text each."""
    return [(" ".join(word for word, _ in run), leaked) for leaked, run in groupby(words, key=lambda each: each[1])]


def _url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the file's header."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height
