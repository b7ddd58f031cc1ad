"""Where a sweep and its trials leave their files in storage, and how these are written and read.

    <storage>/<sweep>/sweep.json                   Sweep: resolved config, planned trials, who made it
                     /beat.json                    when the driver was last alive, and how it ended
                     /driver-N.json                the lease of the sweep's Nth driver (icu_ray.sweep.lease)
                     /trials/<trial id>/spec.json      TrialSpec, written when the trial first starts
                                       /events.jsonl   one EpochRecord a line; epoch 0 is before training
                                       /generations.jsonl  one Generations a line: what was said after each epoch
                                       /samples.jsonl  one SampleRecord a line: what the model said before and after
                                       /result.json    TrialResult, written last and atomically: the trial is over
                                       /evaluation.json, /documents.parquet   TrialEvaluation, where one was asked for
                                       /checkpoint/, /best-N.safetensors (and .sha256), /model/,
                                       /epochs/ (epoch_files.py), /error.txt

    sweep = open_sweep(storage, name, config, planned, provenance)   # the driver, each time it starts
    paths = TrialPaths.of(storage, name, trial_id)
    start_trial(paths, spec); write_events(paths, history); write_samples(paths, samples); write_result(paths, result)
    write_beat(storage, name, "running")                             # the driver, every BEAT_SECONDS

events.jsonl is written whole from the trial's history at every epoch, so a continued trial leaves no line twice.
What is read is checked against the schema, and against the trial whose folder it lies in: an unknown, missing or wrong
key, and another trial's value, is a UserError that names the file. Lines say whose they are under `trial_id`; those of
earlier versions do not, and are taken for their folder's.
`storage` may be a path or an fsspec URL.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from icu_ray.errors import UserError, did_you_mean, without_secrets
from icu_ray.storage.el_names import config_ngram, of_ngram, plain
from icu_ray.storage.files import join, list_dir, local_path, read_bytes, write_atomic
from icu_ray.storage.processes import this_process
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
from icu_ray.storage.values import OF_TRIAL, read_lines, read_value

BEST = "best-"
"""How the names begin of the files with weights of a trial's best epochs."""
_OwnT = TypeVar("_OwnT", TrialSpec, TrialResult)


@dataclass(frozen=True)
class TrialPaths:
    """Where one trial's files lie; `root` is a path or an fsspec URL."""

    root: str

    @staticmethod
    def of(storage: str, sweep: str, trial_id: str) -> TrialPaths:
        """The folder of a trial of a sweep."""
        return TrialPaths(join(storage, sweep, "trials", trial_id))

    @property
    def trial_id(self) -> str:
        """The id of the trial, which its folder is called by."""
        return self.root.rpartition("/")[2]

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
    def error(self) -> str:
        """error.txt: the traceback of an attempt that failed."""
        return join(self.root, "error.txt")

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

    @property
    def epochs(self) -> str:
        """Folder of the models of epochs, and of what was evaluated of them (evaluation.when=epochs)."""
        return join(self.root, "epochs")

    def best(self, epoch: int) -> str:
        """The weights after an epoch that may be left in the end (stop.keep=best), until the trial is over."""
        return join(self.root, f"{BEST}{epoch}.safetensors")


def open_sweep(
    storage: str,
    name: str,
    config: Mapping[str, Any],
    trials: Sequence[TrialSpec],
    provenance: Provenance,
    subjects: Mapping[str, str] | None = None,
) -> Sweep:
    """Write sweep.json; a sweep that is continued keeps its id and the time of its first start, a copy does not."""
    before = read_sweep(storage, name)
    if before is not None and before.name != name:
        before = None
    sweep = Sweep(
        id=uuid.uuid4().hex if before is None else before.id,
        name=name,
        started=time.time() if before is None else before.started,
        config=config,
        trials=tuple(trials),
        provenance=provenance,
        subjects=dict(subjects or {}),
    )
    write_atomic(_sweep_file(storage, name), to_json(asdict(sweep), indent=2))
    return sweep


_OPEN_UNLEARNING = ("_EVAL.json", "_SUMMARY.json")
"""How the files of its evaluations end."""


def no_trials_said(storage: str, name: str) -> str:
    """Why a folder is no sweep's: it is not there, is a file, or holds none."""
    folder = join(storage, name)
    place = local_path(folder)
    if place is not None and place.is_file():
        ours = not name.endswith(_OPEN_UNLEARNING)
        how = "" if ours else f"; 'icu-ray import {place} --out SWEEP' reads OpenUnlearning's numbers into one"
        return f"{folder}: is a file; expected the folder of a sweep, <storage>/<name>{how}"
    what = "holds no trials" if list_dir(folder) else "no such folder, or nothing in it"
    near = did_you_mean(name, [found for found in list_dir(storage) if found != name]) if what[0] == "n" else ""
    return f"{without_secrets(folder)}: {what}{near}; expected the folder of a sweep, <storage>/<name>"


def read_sweep(storage: str, name: str) -> Sweep | None:
    """sweep.json, or None where no sweep of this name was started."""
    return read_value(Sweep, _sweep_file(storage, name), "remove the file to have it written again")


def write_beat(storage: str, name: str, state: SweepState, under_way: Sequence[str] = ()) -> None:
    """Say that the driver lives (`running`) and what it is at, or how it ended."""
    beat = Beat(time.time(), state, this_process(), tuple(under_way))
    write_atomic(_beat_file(storage, name), to_json(asdict(beat)))


def read_beat(storage: str, name: str) -> Beat | None:
    """The driver's last sign of life."""
    return read_value(Beat, _beat_file(storage, name), "remove the file")


def start_trial(paths: TrialPaths, spec: TrialSpec) -> TrialSpec:
    """Write spec.json with the time of now; a trial that is continued keeps the time of its first start."""
    before = read_spec(paths)
    started = time.time() if before is None or before.started is None else before.started
    spec = replace(spec, started=started)
    write_atomic(paths.spec, to_json(asdict(spec), indent=2))
    return spec


def write_events(paths: TrialPaths, history: Sequence[EpochRecord]) -> None:
    """The whole history, one line an epoch."""
    told = [plain(record) for record in history]
    for epoch in told:
        if epoch["came_back"] is None:
            del epoch["came_back"]
    _write_lines(paths, paths.events, told)


def add_generations(paths: TrialPaths, generations: Generations) -> None:
    """One epoch more; what an interrupted run left of this epoch and later ones goes."""
    known = () if generations.epoch == 0 else read_generations(paths)
    earlier = [each for each in known if each.epoch < generations.epoch]
    _write_lines(paths, paths.generations, [asdict(each) for each in (*earlier, generations)])


def write_samples(paths: TrialPaths, samples: Sequence[SampleRecord]) -> None:
    """Generations before and after."""
    _write_lines(paths, paths.samples, [plain(sample) for sample in samples])


def _write_lines(paths: TrialPaths, url: str, values: Iterable[Any]) -> None:
    write_atomic(url, b"".join(to_json({OF_TRIAL: paths.trial_id, **value}) for value in values))


def write_result(paths: TrialPaths, result: TrialResult) -> None:
    """The last thing a trial writes."""
    write_atomic(paths.result, to_json(plain(result), indent=2))


def write_evaluation(paths: TrialPaths, evaluation: TrialEvaluation) -> None:
    """What the models before and after can do."""
    write_atomic(paths.evaluation, to_json(asdict(evaluation), indent=2))


def read_spec(paths: TrialPaths) -> TrialSpec | None:
    """spec.json, or None where the trial has not started."""
    remedy = "give the folder its trial's id, or remove the file; it is written when the trial continues"
    return _read_own(TrialSpec, paths, paths.spec, remedy)


def read_events(paths: TrialPaths, spec: TrialSpec | None = None) -> tuple[EpochRecord, ...]:
    """The history so far; empty where there is none. spec: of the trial, for n of EL in what earlier versions wrote."""
    ngram = None if spec is None else config_ngram(spec.settings)
    records = read_lines(EpochRecord, paths.events, paths.trial_id)
    return tuple(replace(record, scores=of_ngram(record.scores, ngram)) for record in records)


def read_generations(paths: TrialPaths) -> tuple[Generations, ...]:
    """What was said after each epoch; empty where nothing was kept."""
    return read_lines(Generations, paths.generations, paths.trial_id)


def read_samples(paths: TrialPaths, spec: TrialSpec | None = None) -> tuple[SampleRecord, ...]:
    """Generations before and after; empty where there are none. spec: as in `read_events`."""
    ngram = None if spec is None else config_ngram(spec.settings)
    return tuple(of_ngram(record, ngram) for record in read_lines(SampleRecord, paths.samples, paths.trial_id))


def read_result(paths: TrialPaths) -> TrialResult | None:
    """result.json, or None while the trial is not over."""
    found = _read_own(TrialResult, paths, paths.result, "remove the file to run the trial again")
    if found is None:
        return None
    told = None if found.provenance is None else config_ngram(found.provenance.config)
    ngram = told if found.thresholds is None else found.thresholds.ngram
    sides = [None if side is None else of_ngram(side, ngram) for side in (found.before, found.after)]
    return replace(found, before=sides[0], after=sides[1])


def read_evaluation(paths: TrialPaths) -> TrialEvaluation | None:
    """evaluation.json, or None where the trial was not evaluated."""
    remedy = "remove the file to have the trial evaluated again"
    found = read_value(TrialEvaluation, paths.evaluation, remedy)
    result = None if found is None else read_result(paths)
    if found is not None and result is not None and result.model_hash and found.models[1] != result.model_hash:
        raise UserError(f"{without_secrets(paths.evaluation)}: is of another model than {paths.result}; {remedy}")
    return found


def read_documents(url: str, evaluation: TrialEvaluation) -> bytes | None:
    """The content of documents.parquet, None where there is none; UserError where it is not what was written."""
    content = read_bytes(url)
    if content is not None and evaluation.documents not in ("", hashlib.sha256(content).hexdigest()):
        raise UserError(
            f"{without_secrets(url)}: is not what its evaluation wrote, as its SHA-256 says; remove evaluation.json to "
            "have the trial evaluated again"
        )
    return content


def _read_own(kind: type[_OwnT], paths: TrialPaths, url: str, remedy: str) -> _OwnT | None:
    """The value of a file, None where there is none; UserError where it is of another trial than the folder's."""
    found = read_value(kind, url, remedy)
    if found is not None and found.trial_id != paths.trial_id:
        said = f"is of trial {found.trial_id[:40]!r}, expected {paths.trial_id}"
        raise UserError(f"{without_secrets(url)}: {said}; {remedy}")
    return found


def trial_ids(storage: str, sweep: str) -> tuple[str, ...]:
    """Trials that have a folder in a sweep, sorted."""
    return tuple(sorted(name.rstrip("/") for name in list_dir(join(storage, sweep, "trials"))))


def _sweep_file(storage: str, name: str) -> str:
    return join(storage, name, "sweep.json")


def _beat_file(storage: str, name: str) -> str:
    return join(storage, name, "beat.json")
