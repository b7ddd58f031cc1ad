"""Extraction likelihood in files: called by its n there, el10 or el5_before; in the code it is `el`, n beside it.

    plain(Scores(0.5, 0.1, ..., ngram=5))              # {"ma": 0.5, "el5": 0.1, ...}
    by_field({"ma": 0.5, "el5": 0.1})                  # {"ma": 0.5, "el": 0.1, "ngram": 5}

Earlier versions wrote el10 whatever n was; icu_ray/storage/trial_files.py puts that right as it reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

PAPER_NGRAM = 10
"""The paper's n, and that of every key el10 which an earlier version wrote."""
_IN_FILES = re.compile(r"el([1-9][0-9]{0,8})(_.+)?")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, kw_only=True)
class NamedByN:
    """A record whose fields of EL are called by its n in files. ngram: that n."""

    ngram: int = PAPER_NGRAM


_NamedT = TypeVar("_NamedT", bound=NamedByN)


def plain(value: Any) -> Any:
    """Records as nested plain values under the names of files; anything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        return in_files(named) if isinstance(value, NamedByN) else named
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(plain(item) for item in value) if type(value) in (list, tuple) else value


def in_files(named: Mapping[str, Any]) -> dict[str, Any]:
    """A record's values by field, under the names of files."""
    el = f"el{named['ngram']}"
    renamed = {el + key[2:] if key == "el" or key.startswith("el_") else key: item for key, item in named.items()}
    del renamed["ngram"]
    return renamed


def by_field(value: Any) -> Any:
    """What `in_files` gives, by field again; what is called by two n stays as it is, and so does what is no record."""
    if not isinstance(value, Mapping):
        return value
    found = {key: match for key in value if (match := _IN_FILES.fullmatch(key))}
    ngrams = {match[1] for match in found.values()}
    if len(ngrams) != 1:
        return value
    renamed = {f"el{found[key][2] or ''}" if key in found else key: item for key, item in value.items()}
    return {**renamed, "ngram": int(ngrams.pop())}


def of_ngram(record: _NamedT, ngram: int | None) -> _NamedT:
    """A record as it was read, where its trial says n (None: it does not): an earlier version wrote el10 for each."""
    return record if ngram is None or record.ngram != PAPER_NGRAM else replace(record, ngram=ngram)


def ngrams_of(records: Iterable[Any]) -> tuple[int, ...]:
    """Every n among records, None left out, in ascending order; the paper's where there is none."""
    return tuple(sorted({record.ngram for record in records if record is not None})) or (PAPER_NGRAM,)


def config_ngram(settings: Mapping[str, Any]) -> int | None:
    """n as a resolved config or a trial's settings say it; None where they do not."""
    section = settings.get("el")
    ngram = section.get("ngram") if isinstance(section, Mapping) else None
    return ngram if type(ngram) is int and ngram > 0 else None


def subscripted(ngram: int) -> str:
    """'EL₁₀'."""
    return "EL" + str(ngram).translate(_SUBSCRIPTS)
