"""The thresholds of sweeps' configs, for lines in figures and for the facts of a report.

all_thresholds(found.configs)       # {"ma": 59.94, "el10": 4.99}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from icu_ray.storage.el_names import PAPER_NGRAM, config_ngram, subscripted

_HELDOUT = "at most the held-out texts' mean"


def thresholds(config: Mapping[str, Any]) -> dict[str, float] | None:
    """A config's stopping thresholds in percent by column, None where it has none, or a trial makes its own."""
    stop = config.get("stop") or {}
    if not all(isinstance(stop.get(key), int | float) for key in ("ma", "el")):
        return None
    return {"ma": 100 * float(stop["ma"]), f"el{_ngram(config)}": 100 * float(stop["el"])}


def all_thresholds(configs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Those of several configs; the first that has one of a column says it."""
    return {key: value for config in reversed(configs) for key, value in (thresholds(config) or {}).items()}


def thresholds_said(config: Mapping[str, Any], el_name: Callable[[int], str] = subscripted) -> str:
    """When a text counts as forgotten, and which methods have rules of their own; '' where a config does not say.

    el_name: how EL is called by its n.
    """
    stop = config.get("stop") or {}
    if not all(stop.get(key) is not None for key in ("ma", "el")):
        return ""
    el, rule = el_name(_ngram(config)), "or" if stop.get("rule") == "or" else "and"
    if stop["ma"] == stop["el"] == "heldout":
        limits = f"MA {rule} {el} {_HELDOUT}s before unlearning"
    else:
        limits = f" {rule} ".join(_limit_said(name, stop[key]) for name, key in (("MA", "ma"), (el, "el")))
    entries = [(m, m.get("stop") or {}) for m in config.get("methods", ())]
    if stop.get("rule") == "epochs":
        limits += ", judged after the last epoch"
    ruled = [_name(m) for m, own in entries if any(value for key, value in own.items() if key != "max_epochs")]
    others = f"; by rules of their own: {', '.join(dict.fromkeys(ruled))}" if ruled else ""
    longest = dict.fromkeys(f"{_name(m)} after {own['max_epochs']}" for m, own in entries if own.get("max_epochs"))
    return limits + others + (f"; after epochs of their own: {', '.join(longest)}" if longest else "")


def _name(method: Mapping[str, Any]) -> str:
    return str(method.get("label") or method["name"])


def _limit_said(name: str, limit: float | str) -> str:
    if isinstance(limit, str):
        return f"{name} {_HELDOUT} before unlearning"
    return f"{name} < {100 * limit:.2f} %"


def _ngram(config: Mapping[str, Any]) -> int:
    return config_ngram(config) or PAPER_NGRAM
