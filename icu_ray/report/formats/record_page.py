"""The record of one deletion request as a page to print and file: one HTML file that asks for nothing else.

    html = record_html(record)          # what record.json holds

It names texts by id and hash, and says 'not measured' where the record has null. Everything is escaped by the template
(record.html.jinja).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icu_ray.report.formats.templates import template

_TEMPLATE = "record.html.jinja"
SHOWN_TEXTS = 20
"""Texts that the page lists, best remembered first; record.json has all of them."""
NOT_MEASURED = "not measured"


def record_html(record: Mapping[str, Any]) -> str:
    """The page."""
    texts = sorted(record["texts"]["each"], key=lambda text: (-(text.get("ma_after") or 0.0), text["id"]))
    return template(_TEMPLATE).render(
        record=record,
        outcome=outcome_of(record),
        el=el_of(record),
        texts=texts[:SHOWN_TEXTS],
        more=max(len(texts) - SHOWN_TEXTS, 0),
        percent=percent,
        attacked=attacked_said,
        number=number,
        curve=curve_svg,
        short=lambda digest: f"{digest[:16]}…" if digest else "not known",
    )


def curve_svg(points: Sequence[Mapping[str, Any]]) -> str:
    """MA of a request (blue, 0 to 1) and held-out perplexity over the original's (grey) over attempts, as a picture.

    SVG of numbers alone, so that nothing of it needs escaping.
    """
    wide, high, edge = 640, 150, 28

    def line(key: str, most: float, color: str) -> str:
        step = (wide - 2 * edge) / max(len(points) - 1, 1)
        places = [
            (edge + step * number, high - edge - (high - 2 * edge) * min(point[key] / most, 1.0))
            for number, point in enumerate(points)
            if point[key] is not None
        ]
        drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places)
        return f'<polyline points="{drawn}" fill="none" stroke="{color}" stroke-width="2"/>{dots}'

    ratios = [point["ppl_ratio"] for point in points if point["ppl_ratio"] is not None]
    top = max([2.0, *ratios])
    names = "".join(
        f'<text x="{edge + (wide - 2 * edge) / max(len(points) - 1, 1) * number:.1f}" y="{high - 8}" '
        f'font-size="11" text-anchor="middle">{int(point["attempt"])}</text>'
        for number, point in enumerate(points)
    )
    said = f"blue: MA, 0 to 100 %; grey: held-out perplexity, 0 to {top:.1f} times the original's; by attempt"
    return (
        f'<svg viewBox="0 0 {wide} {high}" role="img" aria-label="{said}" width="100%">'
        f'<line x1="{edge}" y1="{high - edge}" x2="{wide - edge}" y2="{high - edge}" stroke="#d5dae0"/>'
        f"{line('ppl_ratio', top, '#8a939c')}{line('ma', 1.0, '#1f6feb')}{names}"
        f'<text x="{edge}" y="14" font-size="11">{said}</text></svg>'
    )


def el_of(record: Mapping[str, Any]) -> str:
    """The key of extraction likelihood in this record, which is named by its n: 'el10', 'el5'."""
    config = record.get("config") or {}
    return f"el{(config.get('el') or {}).get('ngram', 10)}"


def outcome_of(record: Mapping[str, Any]) -> str:
    """The verdict in a word or two: as the verdict puts it itself, where it does."""
    verdict = record["verdict"]
    said = verdict.get("said")
    if isinstance(said, str) and said:
        return said
    forgotten = verdict.get("forgotten")
    return "Not decided" if forgotten is None else "Forgotten" if forgotten else "Not forgotten"


def attacked_said(audit: Mapping[str, Any]) -> str:
    """How many of a request's texts were attacked, and which of them came back."""
    back = audit["texts_back"]
    if "texts_attacked" not in audit:
        found = f"{', '.join(back)} came back" if back else "no text is known to have come back"
        return f"{found} (which were attacked was not written down)"
    attacked = len(audit["texts_attacked"])
    total = attacked + len(audit["texts_not_measured"])
    if not attacked:
        return f"none of {total} texts could be attacked"
    found = f"{', '.join(back)} came back" if back else "none of these counts as back"
    return f"{attacked} of {total} texts {'was' if attacked == 1 else 'were'} attacked; {found}"


def percent(value: float | None) -> str:
    """A fraction in per cent."""
    return NOT_MEASURED if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A perplexity or a ratio."""
    return NOT_MEASURED if value is None else f"{value:.2f}"
