"""Where a sweep and its trials leave their files in storage, and how these are written and read.

    <storage>/<sweep>/sweep.json                   Sweep: resolved config, planned trials, who made it
                     /beat.json                    when the driver was last alive, and how it ended
                     /driver-N.json                whose the sweep is: the lease of its Nth driver (icu_ray.sweep.lease)
                     /trials/<trial id>/spec.json      TrialSpec, written when the trial first starts
                                       /events.jsonl   one EpochRecord a line; epoch 0 is before training
                                       /generations.jsonl  one Generations a line: what was said after each epoch
                                       /samples.jsonl  one SampleRecord a line: what the model said before and after
                                       /result.json    TrialResult, written last and atomically: the trial is over
                                       /evaluation.json, /documents.parquet   TrialEvaluation, where one was asked for
                                       /checkpoint/, /model/

    sweep = open_sweep(storage, name, config, planned, provenance)   # the driver, each time it starts
    paths = TrialPaths.of(storage, name, trial_id)
    start_trial(paths, spec); write_events(paths, history); write_samples(paths, samples); write_result(paths, result)
    write_beat(storage, name, "running")                             # the driver, every BEAT_SECONDS

events.jsonl is written whole from the trial's history at every epoch, so a continued trial leaves no line twice.
What is read is checked against the schema: an unknown, missing or wrong key is a UserError that names the file.
`storage` may be a path or an fsspec URL.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.files import join, list_dir, read_bytes, write_atomic
from icu_ray.storage.results import (
    Beat,
    EpochRecord,
    Generations,
    Provenance,
    SampleRecord,
    Sweep,
    SweepState,
    TrialEvaluation,
    TrialResult,
    TrialSpec,
    to_json,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class TrialPaths:
    """Where one trial's files lie; `root` is a path or an fsspec URL."""

    root: str

    @staticmethod
    def of(storage: str, sweep: str, trial_id: str) -> TrialPaths:
        """The folder of a trial of a sweep."""
        return TrialPaths(join(storage, sweep, "trials", trial_id))

    @property
    def spec(self) -> str:
        """spec.json."""
        return join(self.root, "spec.json")

    @property
    def events(self) -> str:
        """events.jsonl."""
        return join(self.root, "events.jsonl")

    @property
    def generations(self) -> str:
        """generations.jsonl."""
        return join(self.root, "generations.jsonl")

    @property
    def micro_batch(self) -> str:
        """micro_batch.json, where a trial ran out of memory."""
        return join(self.root, "micro_batch.json")

    @property
    def samples(self) -> str:
        """samples.jsonl."""
        return join(self.root, "samples.jsonl")

    @property
    def result(self) -> str:
        """result.json."""
        return join(self.root, "result.json")

    @property
    def evaluation(self) -> str:
        """evaluation.json."""
        return join(self.root, "evaluation.json")

    @property
    def documents(self) -> str:
        """documents.parquet: what both models answered to every document of every task."""
        return join(self.root, "documents.parquet")

    @property
    def model(self) -> str:
        """Folder of the unlearned model."""
        return join(self.root, "model")

    @property
    def checkpoint(self) -> str:
        """Folder of the trial's checkpoints."""
        return join(self.root, "checkpoint")


def open_sweep(
    storage: str, name: str, config: Mapping[str, Any], trials: Sequence[TrialSpec], provenance: Provenance
) -> Sweep:
    """Write sweep.json; a sweep that is continued keeps its id and the time of its first start."""
    before = read_sweep(storage, name)
    sweep = Sweep(
        id=uuid.uuid4().hex if before is None else before.id,
        name=name,
        started=time.time() if before is None else before.started,
        config=config,
        trials=tuple(trials),
        provenance=provenance,
    )
    write_atomic(_sweep_file(storage, name), to_json(asdict(sweep), indent=2))
    return sweep


def read_sweep(storage: str, name: str) -> Sweep | None:
    """sweep.json, or None where no sweep of this name was started."""
    return _read(Sweep, _sweep_file(storage, name), "remove the file to write it anew")


def write_beat(storage: str, name: str, state: SweepState) -> None:
    """Say that the driver lives (`running`), or how it ended."""
    write_atomic(_beat_file(storage, name), to_json(asdict(Beat(time.time(), state))))


def read_beat(storage: str, name: str) -> Beat | None:
    """The driver's last sign of life."""
    return _read(Beat, _beat_file(storage, name), "remove the file")


def start_trial(paths: TrialPaths, spec: TrialSpec) -> TrialSpec:
    """Write spec.json with the time of now; a trial that is continued keeps the time of its first start."""
    before = read_spec(paths)
    started = time.time() if before is None or before.started is None else before.started
    spec = replace(spec, started=started)
    write_atomic(paths.spec, to_json(asdict(spec), indent=2))
    return spec


def write_events(paths: TrialPaths, history: Sequence[EpochRecord]) -> None:
    """The whole history, one line an epoch."""
    write_atomic(paths.events, b"".join(to_json(asdict(record)) for record in history))


def add_generations(paths: TrialPaths, generations: Generations) -> None:
    """One epoch more; what an interrupted run left of this epoch and later ones goes."""
    earlier = [known for known in read_generations(paths) if known.epoch < generations.epoch]
    write_atomic(paths.generations, b"".join(to_json(asdict(each)) for each in (*earlier, generations)))


def write_samples(paths: TrialPaths, samples: Sequence[SampleRecord]) -> None:
    """Generations before and after."""
    write_atomic(paths.samples, b"".join(to_json(asdict(sample)) for sample in samples))


def write_result(paths: TrialPaths, result: TrialResult) -> None:
    """The last thing a trial writes."""
    write_atomic(paths.result, to_json(asdict(result), indent=2))


def write_evaluation(paths: TrialPaths, evaluation: TrialEvaluation) -> None:
    """What the models before and after can do."""
    write_atomic(paths.evaluation, to_json(asdict(evaluation), indent=2))


def read_spec(paths: TrialPaths) -> TrialSpec | None:
    """spec.json, or None where the trial has not started."""
    return _read(TrialSpec, paths.spec, "remove the file; it is written when the trial goes on")


def read_events(paths: TrialPaths) -> tuple[EpochRecord, ...]:
    """The history so far; empty where there is none."""
    return _read_lines(EpochRecord, paths.events)


def read_generations(paths: TrialPaths) -> tuple[Generations, ...]:
    """What was said after each epoch; empty where nothing was kept."""
    return _read_lines(Generations, paths.generations)


def read_samples(paths: TrialPaths) -> tuple[SampleRecord, ...]:
    """Generations before and after; empty where there are none."""
    return _read_lines(SampleRecord, paths.samples)


def read_result(paths: TrialPaths) -> TrialResult | None:
    """result.json, or None while the trial is not over."""
    return _read(TrialResult, paths.result, "remove the file to run the trial again")


def read_evaluation(paths: TrialPaths) -> TrialEvaluation | None:
    """evaluation.json, or None where the trial was not evaluated."""
    return _read(TrialEvaluation, paths.evaluation, "remove the file to have the trial evaluated again")


def trial_ids(storage: str, sweep: str) -> tuple[str, ...]:
    """Trials that have a folder in a sweep, sorted."""
    return tuple(sorted(name.rstrip("/") for name in list_dir(join(storage, sweep, "trials"))))


def _sweep_file(storage: str, name: str) -> str:
    return join(storage, name, "sweep.json")


def _beat_file(storage: str, name: str) -> str:
    return join(storage, name, "beat.json")


_ADAPTERS: Mapping[Any, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind)
    for kind in (EpochRecord, Generations, SampleRecord, TrialSpec, TrialResult, TrialEvaluation, Sweep, Beat)
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
    return None if all(isinstance(limit, float | int) and abs(limit) < _LARGEST for limit in limits) else "stop"


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


def _read(kind: type[_T], url: str, remedy: str) -> _T | None:
    data = read_bytes(url)
    return None if data is None else _parse(kind, data, url, remedy)


def _read_lines(kind: type[_T], url: str) -> tuple[_T, ...]:
    """One record a line. A last line without its end may be half of one: it counts only when it is whole."""
    *lines, rest = (read_bytes(url) or b"").split(b"\n")
    remedy = "remove the file; a trial writes it anew"
    records = [
        _parse(kind, line, f"{url}, line {number}", remedy)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if rest.strip():
        try:
            json.loads(rest)
        except (ValueError, RecursionError):
            return tuple(records)
        records.append(_parse(kind, rest, f"{url}, line {len(lines) + 1}", remedy))
    return tuple(records)
