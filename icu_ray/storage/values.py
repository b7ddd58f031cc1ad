"""Reading the values of storage's files, checked: what is no such value is a UserError that names the file.

    sweep = read_value(Sweep, url, "remove the file to write it anew"); history = read_lines(EpochRecord, url)

An unknown, missing or wrong key is refused, and so is a section of a resolved config that is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.files import read_bytes
from icu_ray.storage.imported import Imported
from icu_ray.storage.results import (
    Beat,
    EpochRecord,
    Generations,
    SampleRecord,
    Sweep,
    TrialEvaluation,
    TrialResult,
    TrialSpec,
)

_T = TypeVar("_T")
OF_TRIAL = "trial_id"
"""Key of a line under which its trial stands."""

_ADAPTERS: Mapping[Any, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind)
    for kind in (
        EpochRecord,
        Generations,
        SampleRecord,
        TrialSpec,
        TrialResult,
        TrialEvaluation,
        TrialAudit,
        EpochEvaluation,
        Sweep,
        Beat,
        Imported,
    )
}


def _misshapen(config: Mapping[str, Any]) -> str | None:
    """The first section of a resolved config that is none; what other versions of this package added to one may be."""
    for key in ("models", "methods"):
        entries = config.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            return key
        if not all(isinstance(entry.get("name"), str) for entry in entries):
            return key
        if not all(isinstance(entry.get(part), Mapping | None) for entry in entries for part in ("standin", "stop")):
            return key
    for key in ("stop", "optim", "tracking", "search", "evaluation", "resources"):
        if not isinstance(config.get(key), Mapping | None):
            return key
    stop: Mapping[str, Any] = config.get("stop") or {}
    limits = [stop[key] for key in ("ma", "el") if key in stop]
    numbers = [limit for limit in limits if limit != "heldout"]
    return None if all(isinstance(limit, float | int) and abs(limit) < _LARGEST for limit in numbers) else "stop"


_NUMBERS = ("alpha", "beta", "lr", "seed")
_LARGEST = 1e300


def _parse(kind: type[_T], data: bytes, where: str, remedy: str) -> _T:
    where = without_secrets(where)
    try:
        value: _T = _ADAPTERS[kind].validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        what = f"{key}: {first['msg']}" if key else first["msg"]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{where}: is no {kind.__name__}: {what}{more}; {remedy}") from error
    configs = [getattr(each, "config", None) for each in (value, getattr(value, "provenance", None))]
    for config in configs:
        if config is not None and (section := _misshapen(config)):
            raise UserError(f"{where}: is no {kind.__name__}: config.{section}: is not as a config has it; {remedy}")
    for each in value.trials if isinstance(value, Sweep) else (value,):
        for key, found in getattr(each, "hyperparameters", {}).items():
            if key in _NUMBERS and (isinstance(found, str | bool) or abs(found) > _LARGEST):
                said = f"hyperparameters.{key}: expected a number, found {str(found)[:40]!r}"
                raise UserError(f"{where}: is no {kind.__name__}: {said}; {remedy}")
    return value


def read_value(kind: type[_T], url: str, remedy: str) -> _T | None:
    data = read_bytes(url)
    return None if data is None else _parse(kind, data, url, remedy)


def read_lines(kind: type[_T], url: str, trial_id: str) -> tuple[_T, ...]:
    """One record a line. A last line without its end may be half of one: it counts only when it is whole.

    A record may say whose it is; UserError where that is another trial than this one.
    """
    *lines, rest = (read_bytes(url) or b"").split(b"\n")
    remedy = "remove the file; a trial writes it again"

    def record(line: bytes, number: int) -> _T:
        where = f"{url}, line {number}"
        return _parse(kind, _own(line, trial_id, where, remedy), where, remedy)

    records = [record(line, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if rest.strip():
        try:
            json.loads(rest)
        except (ValueError, RecursionError):
            return tuple(records)
        records.append(record(rest, len(lines) + 1))
    return tuple(records)


def _own(line: bytes, trial_id: str, where: str, remedy: str) -> bytes:
    """A record without the id of its trial, which is this one's; earlier versions wrote none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line  # whoever parses it says so
    if not isinstance(value, dict) or OF_TRIAL not in value:
        return line
    found = value.pop(OF_TRIAL)
    if found != trial_id:
        said = f"is of trial {str(found)[:40]!r}, expected {trial_id}"
        raise UserError(f"{without_secrets(where)}: {said}; {remedy}")
    return json.dumps(value).encode()
