"""What one or several sweep folders hold, read for a report: trials, what is missing, what cannot be read.

    found = collect([("runs", "quickstart"), ("runs", "quickstart-seed7")])

A file that cannot be read is named in `broken` and costs its trial alone. A trial that stands in several folders (its
id is the hash of all that decides its result) is taken once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.audit_files import read_audit
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.el_names import PAPER_NGRAM, config_ngram
from icu_ray.storage.epoch_evaluations import EpochEvaluation, by_epoch
from icu_ray.storage.epoch_files import read_epoch_evaluations
from icu_ray.storage.imported import Imported
from icu_ray.storage.imported_files import imported_labels, read_imported
from icu_ray.storage.results import (
    EpochRecord,
    Provenance,
    SampleRecord,
    Sweep,
    TrialEvaluation,
    TrialResult,
    TrialSpec,
)
from icu_ray.storage.trial_files import (
    TrialPaths,
    no_trials_said,
    read_beat,
    read_evaluation,
    read_events,
    read_result,
    read_samples,
    read_spec,
    read_sweep,
    trial_ids,
)
from icu_ray.storage.verdict import Verdict, verdict_of

_T = TypeVar("_T")
Side = Literal["before", "after"]
SIDES: tuple[Side, ...] = ("before", "after")


def evaluated_of(
    evaluation: TrialEvaluation | None, audit: TrialAudit | None, side: Side
) -> Mapping[str, float | None]:
    """Metrics of evaluation and audit together; {} where there is neither."""
    evaluated: Mapping[str, float | None] = {} if evaluation is None else getattr(evaluation, side)
    return {**evaluated, **({} if audit is None else audit.metrics(side))}


@dataclass(frozen=True)
class ReportedTrial:
    """A trial as far as it went. `state`: its result's status, else 'running', 'interrupted', 'not started', 'broken'.

    settings: the nested plain values that decide the result (TrialSpec.settings); empty where spec.json is missing.
    """

    sweep: str
    trial_id: str
    name: str
    model: str
    method: str
    sample: int
    hyperparameters: Mapping[str, float | int | str | bool]
    state: str
    result: TrialResult | None = None
    history: tuple[EpochRecord, ...] = ()
    samples: tuple[SampleRecord, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None
    planned: bool = True
    evaluation: TrialEvaluation | None = None
    audit: TrialAudit | None = None
    storage: str = ""
    epoch_evaluations: tuple[EpochEvaluation, ...] = ()

    @property
    def paths(self) -> TrialPaths:
        """Where its files lie."""
        return TrialPaths.of(self.storage, self.sweep, self.trial_id)

    @property
    def alpha(self) -> float:
        """Weight of the learning loss."""
        return float(self.hyperparameters.get("alpha", 0.0))

    @property
    def beta(self) -> float:
        """Weight of the divergence."""
        return float(self.hyperparameters.get("beta", 0.0))

    @property
    def base_method(self) -> str:
        """The method's own name, where `method` is the label of tables."""
        method = self.settings.get("method")
        return str(method.get("name", self.method)) if isinstance(method, Mapping) else self.method

    @property
    def unit(self) -> tuple[int, int | None]:
        """(forget sample, seed): what two methods have in common when they are compared."""
        seed = self.hyperparameters.get("seed")
        return self.sample, None if seed is None else int(seed)

    @property
    def ngram(self) -> int:
        """n of EL, by which tables and files call it."""
        sides = () if self.result is None else (self.result.before, self.result.after)
        measured = next((each.ngram for each in (*sides, *(r.scores for r in self.history)) if each), None)
        return measured or config_ngram(self.settings) or PAPER_NGRAM

    @property
    def epochs(self) -> int:
        """Epochs so far."""
        if self.result is not None:
            return self.result.epochs
        return self.history[-1].epoch if self.history else 0

    @property
    def verdict(self) -> Verdict | None:
        """The answer about it, None where there is none yet."""
        return None if self.result is None else verdict_of(self.result, self.samples, self.evaluation, self.audit)

    def metrics(self, side: Side = "after") -> Mapping[str, float | None]:
        """What evaluation and audit measured on its model, or on the one before, by the names that MLflow has."""
        return evaluated_of(self.evaluation, self.audit, side)

    @property
    def by_epoch(self) -> Mapping[int, Mapping[str, float | None]]:
        """What the evaluation measured on its models by epoch; {} where those after its epochs were not evaluated."""
        result = self.measured
        left = None if result is None else result.kept_epoch or result.epochs
        return by_epoch(self.evaluation, self.epoch_evaluations, left)

    @property
    def measured(self) -> TrialResult | None:
        """The result, if it counts: a failed trial's last epoch is no result of its method."""
        return None if self.result is None or self.result.status == "failed" else self.result


@dataclass(frozen=True)
class SweepFolder:
    """One folder: storage, name, sweep.json where it could be read, and the state of its driver ('' if unknown).

    under_way: the steps of the shared work that a running driver is at, each with its stage.
    """

    storage: str
    name: str
    record: Sweep | None
    state: str
    under_way: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collected:
    """All trials of all folders in the plan's order, and a line for each file that could not be read.

    imported: what another framework measured.
    """

    sweeps: tuple[SweepFolder, ...]
    trials: tuple[ReportedTrial, ...]
    broken: tuple[str, ...]
    imported: tuple[Imported, ...] = ()

    @property
    def configs(self) -> tuple[Mapping[str, Any], ...]:
        """The resolved config of each sweep that has one."""
        return tuple(sweep.record.config for sweep in self.sweeps if sweep.record is not None)


def collect(folders: Sequence[tuple[str, str]], *, unstarted: bool = False) -> Collected:
    """Read (storage, sweep name) folders; UserError for one that is no sweep.

    unstarted: whether a sweep whose trials were all only planned is one as well.
    """
    broken: list[str] = []
    sweeps: list[SweepFolder] = []
    trials: dict[str, ReportedTrial] = {}
    imported: list[Imported] = []
    for storage, name in folders:
        sweep, found = _collect_one(storage, name, broken, unstarted)
        sweeps.append(sweep)
        for trial in found:
            known = trials.get(trial.trial_id)
            if known is None or (known.result is None and trial.result is not None):
                trials[trial.trial_id] = trial
        for label in imported_labels(storage, name):
            one = _try(partial(read_imported, storage, name, label), broken)
            if one is not None and one not in imported:
                imported.append(one)
    return Collected(tuple(sweeps), tuple(trials.values()), tuple(broken), tuple(imported))


def _collect_one(
    storage: str, name: str, broken: list[str], unstarted: bool
) -> tuple[SweepFolder, list[ReportedTrial]]:
    where = without_secrets(f"{storage}/{name}")
    ids = trial_ids(storage, name)
    record = _try(lambda: read_sweep(storage, name), broken)
    if not ids and not (unstarted and record is not None):
        if record is not None:
            raise UserError(
                f"{where}: none of its {len(record.trials)} planned trials was started; run the sweep first"
            )
        raise UserError(no_trials_said(storage, name))
    beat = _try(lambda: read_beat(storage, name), broken)
    state = "" if beat is None else beat.state_at(time.time())
    planned = {} if record is None else {spec.trial_id: spec for spec in record.trials}
    wanted = [*planned, *(trial_id for trial_id in ids if trial_id not in planned)]
    trials = [
        _collect_trial(storage, name, trial_id, planned.get(trial_id), record, state, broken) for trial_id in wanted
    ]
    under_way = beat.under_way if beat is not None and state == "running" else ()
    return SweepFolder(storage, name, record, state, under_way), trials


def _collect_trial(
    storage: str,
    sweep: str,
    trial_id: str,
    planned: TrialSpec | None,
    record: Sweep | None,
    driver: str,
    broken: list[str],
) -> ReportedTrial:
    paths = TrialPaths.of(storage, sweep, trial_id)
    before = len(broken)
    started = _try(lambda: read_spec(paths), broken)
    spec = started or planned
    in_plan = record is None or planned is not None
    history = _try(lambda: read_events(paths, spec), broken) or ()
    result = _try(lambda: read_result(paths), broken)
    samples = _try(lambda: read_samples(paths, spec), broken) or ()
    evaluation = _try(lambda: read_evaluation(paths), broken)
    audit = _try(lambda: read_audit(paths), broken)
    epochs = _try(lambda: read_epoch_evaluations(paths), broken) or ()
    if result is not None:
        state: str = result.status
    elif len(broken) > before:
        state = "broken"
    elif started is None and not history:
        state = "not started"
    else:  # what an earlier config left is nothing that the driver runs
        state = "running" if driver == "running" and in_plan else "interrupted"
    source = result or spec
    if source is None:
        return ReportedTrial(sweep, trial_id, trial_id, "?", "?", -1, {}, state, planned=False)
    provenance = (result.provenance if result else None) or (spec.provenance if spec else None)
    return ReportedTrial(
        sweep,
        trial_id,
        source.name,
        source.model,
        source.method,
        source.sample,
        source.hyperparameters,
        state,
        result,
        history,
        samples,
        spec.settings if spec else {},
        provenance,
        planned=in_plan,
        evaluation=evaluation,
        audit=audit,
        storage=storage,
        epoch_evaluations=epochs,
    )


def _try(read: Callable[[], _T], broken: list[str]) -> _T | None:
    try:
        return read()
    except UserError as error:
        if str(error) not in broken:  # what is read for the sake of another file may be met twice
            broken.append(str(error))
        return None
