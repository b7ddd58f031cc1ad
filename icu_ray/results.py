"""What a trial leaves in storage, and how it is read back: the truth that tables, MLflow and resuming rest on.

    <storage>/<sweep>/trials/<trial id>/spec.json      the trial and its provenance, written when it starts
                                       /events.jsonl   one EpochRecord a line; epoch 0 is before training
                                       /samples.jsonl  prompt, reference and candidates before and after
                                       /result.json    written last and atomically: the trial is over
                                       /checkpoint/, /model/

events.jsonl is written whole from the trial's history at every epoch, so a continued trial leaves no line twice.
Numbers that are not finite are written as null. MA and EL are fractions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from icu_ray.errors import UserError
from icu_ray.store import join, list_dir, read_bytes, write_atomic

Status = Literal["finished", "failed", "not_forgotten"]


@dataclass(frozen=True)
class Scores:
    """A model measured on a forget sample: means over its rows; None where not measured or not finite."""

    ma: float | None
    el10: float | None
    forget_loss: float | None
    bertscore_f1: float | None
    bleu: float | None
    entropy: float | None
    distinct: float | None = None
    ppl_heldout: float | None = None


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a trial. epoch 0 is the original model; `active` counts samples not yet forgotten after it.

    loss: each term of equation (6) as a mean over the epoch's steps. seconds: train, validate, checkpoint.
    notes: what happened besides, such as an optimizer that had to start anew.
    """

    epoch: int
    active: int
    scores: Scores
    loss: Mapping[str, float | None] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleRecord:
    """One target with what the model said after its prompt before and after unlearning, and its own scores."""

    id: str
    prompt: str
    reference: str
    before: str
    after: str
    ma_before: float | None
    ma_after: float | None
    bertscore_after: float | None
    bleu_after: float | None
    forgotten: bool


@dataclass(frozen=True)
class TrialResult:
    """result.json."""

    trial_id: str
    name: str
    model: str
    method: str
    sample: int
    hyperparameters: Mapping[str, float | int | str | bool]
    status: Status
    reason: str
    epochs: int
    before: Scores | None
    after: Scores | None
    seconds: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)


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
    def samples(self) -> str:
        """samples.jsonl."""
        return join(self.root, "samples.jsonl")

    @property
    def result(self) -> str:
        """result.json."""
        return join(self.root, "result.json")

    @property
    def model(self) -> str:
        """Folder of the unlearned model."""
        return join(self.root, "model")

    @property
    def checkpoint(self) -> str:
        """Folder of the trial's checkpoints."""
        return join(self.root, "checkpoint")


def finite(value: Any) -> Any:
    """`value` with numbers that JSON cannot say (NaN, infinities) as None, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def to_json(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 JSON of plain values; not-finite numbers become null."""
    return (json.dumps(finite(value), ensure_ascii=False, indent=indent, allow_nan=False) + "\n").encode()


def write_spec(paths: TrialPaths, spec: Mapping[str, Any]) -> None:
    """The trial's own description with its provenance."""
    write_atomic(paths.spec, to_json(spec, indent=2))


def write_events(paths: TrialPaths, history: Sequence[EpochRecord]) -> None:
    """The whole history, one line an epoch."""
    write_atomic(paths.events, b"".join(to_json(asdict(record)) for record in history))


def write_samples(paths: TrialPaths, samples: Sequence[SampleRecord]) -> None:
    """Generations before and after."""
    write_atomic(paths.samples, b"".join(to_json(asdict(sample)) for sample in samples))


def write_result(paths: TrialPaths, result: TrialResult) -> None:
    """The last thing a trial writes."""
    write_atomic(paths.result, to_json(asdict(result), indent=2))


def read_spec(paths: TrialPaths) -> dict[str, Any] | None:
    """spec.json, or None where the trial has not started."""
    return _read_object(paths.spec)


def read_events(paths: TrialPaths) -> tuple[EpochRecord, ...]:
    """The history so far; empty where there is none."""
    records = []
    for number, line in enumerate(_lines(paths.events), start=1):
        try:
            raw = json.loads(line)
            raw["scores"] = Scores(**raw["scores"])
            raw["notes"] = tuple(raw.get("notes", ()))
            records.append(EpochRecord(**raw))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{paths.events}, line {number}: is no epoch record: {error}") from error
    return tuple(records)


def read_samples(paths: TrialPaths) -> tuple[SampleRecord, ...]:
    """Generations before and after; empty where there are none."""
    try:
        return tuple(SampleRecord(**json.loads(line)) for line in _lines(paths.samples))
    except (ValueError, TypeError) as error:
        raise UserError(f"{paths.samples}: is no file of sample records: {error}") from error


def read_result(paths: TrialPaths) -> TrialResult | None:
    """result.json, or None while the trial is not over."""
    raw = _read_object(paths.result)
    if raw is None:
        return None
    known = {item.name for item in fields(TrialResult)}
    try:
        for side in ("before", "after"):
            raw[side] = None if raw.get(side) is None else Scores(**raw[side])
        return TrialResult(**{key: value for key, value in raw.items() if key in known})
    except TypeError as error:
        raise UserError(f"{paths.result}: is no trial result: {error}") from error


def trial_ids(storage: str, sweep: str) -> tuple[str, ...]:
    """Trials that have a folder in a sweep, sorted."""
    return tuple(sorted(name.rstrip("/") for name in list_dir(join(storage, sweep, "trials"))))


def _lines(url: str) -> list[str]:
    content = read_bytes(url)
    return [] if content is None else [line for line in content.decode("utf-8").split("\n") if line.strip()]


def _read_object(url: str) -> dict[str, Any] | None:
    content = read_bytes(url)
    if content is None:
        return None
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{url}: is not JSON: {error}; remove the file to run the trial again") from error
    if not isinstance(value, dict):
        raise UserError(f"{url}: expected an object, found {type(value).__name__}")
    return value
