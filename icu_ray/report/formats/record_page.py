"""The record of one deletion request as a page to print and file: one HTML file that asks for nothing else.

    html = record_html(record)          # what record.json holds

It names texts by id and hash, and says 'not measured' where the record has null. Everything is escaped by the template
(record.html.jinja).
"""

from __future__ import annotations

from collections.abc import Mapping
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
        number=number,
        short=lambda digest: f"{digest[:16]}…" if digest else "not known",
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


def percent(value: float | None) -> str:
    """A fraction in per cent."""
    return NOT_MEASURED if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A perplexity or a ratio."""
    return NOT_MEASURED if value is None else f"{value:.2f}"
