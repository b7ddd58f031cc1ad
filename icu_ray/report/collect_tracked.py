"""A sweep of an MLflow experiment as `collect` reads one: from its storage where that is still there, else from MLflow.

found = collect_tracked("sqlite:///runs/mlflow.db", "quickstart")
found.collected, found.said, found.tracked
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.collect import Collected, ReportedTrial, SweepFolder, collect
from icu_ray.report.tracking.read import TrackedSweep, TrackedTrial, read_tracked
from icu_ray.storage.files import join
from icu_ray.storage.results import Provenance
from icu_ray.storage.trial_files import read_sweep

_DIGITS = 16
"""Of a hash in MLflow's tags."""
_NOT_SENT = "versions of packages and trials that were not started"


@dataclass(frozen=True)
class FoundSweep:
    """tracked: whether the numbers are MLflow's. said: where they come from, and what is missing in them."""

    collected: Collected
    said: str
    tracked: bool


def collect_tracked(uri: str, experiment: str) -> FoundSweep:
    """Read it. UserError as `read_tracked` raises it."""
    found = read_tracked(uri, experiment)
    folder = without_secrets(join(found.storage, found.record.name)) if found.storage else ""
    why = "MLflow does not say where its folder is"
    if folder:
        there = _from_storage(found)
        if there is not None:
            return FoundSweep(there, f"numbers from its folder, {folder}", tracked=False)
        why = f"its folder {folder} is not there, or is another sweep's"
    missing = ", ".join((_NOT_SENT, *found.missing))
    said = f"numbers from MLflow, as {why}; not known: {missing}; hashes are compared by {_DIGITS} digits"
    trials = tuple(_trial(found, trial) for trial in found.trials)
    sweep = SweepFolder(found.storage or "mlflow", found.record.name, found.record, "")
    return FoundSweep(Collected((sweep,), trials, ()), said, tracked=True)


def _from_storage(found: TrackedSweep) -> Collected | None:
    """None where there is no such folder, or another sweep's."""
    try:
        record = read_sweep(found.storage, found.record.name)
        if record is None or record.id != found.record.id:
            return None
        return collect([(found.storage, found.record.name)], unstarted=True)
    except (UserError, OSError, ImportError, ValueError):  # a storage whose library or password is not here
        return None


def _trial(sweep: TrackedSweep, trial: TrackedTrial) -> ReportedTrial:
    spec, result = trial.spec, trial.result
    return ReportedTrial(
        sweep.record.name,
        spec.trial_id,
        spec.name,
        spec.model,
        spec.method,
        spec.sample,
        spec.hyperparameters,
        "interrupted" if result is None else result.status,
        result,
        settings=spec.settings,
        provenance=spec.provenance,
        evaluation=trial.evaluation,
        storage=sweep.storage,
    )


def as_tracked(found: Collected) -> Collected:
    """What MLflow would have of a sweep, to be compared with one that it has: what it lacks is no difference."""
    sweeps = tuple(
        s if s.record is None else replace(s, record=replace(s.record, provenance=_cut(s.record.provenance)))
        for s in found.sweeps
    )
    trials = [
        replace(t, provenance=None if t.provenance is None else _cut(t.provenance))
        for t in found.trials
        if t.state != "not started"
    ]
    return replace(found, sweeps=sweeps, trials=tuple(trials))


def _cut(made: Provenance) -> Provenance:
    return replace(made, data=made.data[:_DIGITS], model=made.model[:_DIGITS], packages={})
