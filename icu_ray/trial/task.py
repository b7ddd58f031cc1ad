"""What a trial is told, and how it is described in storage: its spec, and the result of one that could not end.

task = TrialTask(trial, artefact_keys, ...); start_trial(task.paths, spec_of(trial, provenance))
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from icu_ray.errors import UserError
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import Provenance, TrialResult, TrialSpec
from icu_ray.storage.trial_files import TrialPaths, read_events, write_result
from icu_ray.trial.artefacts import ArtefactKeys


@dataclass(frozen=True)
class TrialTask:
    """All that a trial is told. storage and store are absolute: workers have another working directory."""

    trial: Trial
    artefacts: ArtefactKeys
    storage: str
    sweep: str
    store: str
    retries: int
    keep_model: bool
    epoch_minutes: float | None
    provenance: Provenance
    tell_epochs: bool = False
    """Whether Tune is told of every epoch, for schedulers that compare trials."""
    audited: bool = False
    """Whether what it is told counts what comes back (search.objective)."""
    keep_epochs: bool = False
    """Whether the model after each epoch is kept until it is evaluated (evaluation.when=epochs)."""

    @property
    def paths(self) -> TrialPaths:
        """Where the trial's files lie."""
        return TrialPaths.of(self.storage, self.sweep, self.trial.trial_id)


def spec_of(trial: Trial, provenance: Provenance | None = None) -> TrialSpec:
    """The trial's own description in storage."""
    return TrialSpec(
        trial_id=trial.trial_id,
        name=trial.name,
        model=trial.model.name,
        method=trial.label,
        sample=trial.sample,
        hyperparameters=trial.hyperparameters,
        max_epochs=trial.settings.max_epochs,
        settings=trial.identity,
        provenance=provenance,
    )


def write_failure(trial: Trial, paths: TrialPaths, reason: str, provenance: Provenance, status: str = "failed") -> None:
    """result.json of a trial that was not brought to its end, with whatever it had measured."""
    try:
        history = read_events(paths)
    except UserError:  # damaged, or another trial's: nothing that this one has measured
        history = ()
    seconds = sum(sum(record.seconds.values()) for record in history)
    last = history[-1] if history else None
    result = result_of(
        trial,
        status=status,
        reason=reason,
        epochs=0 if last is None else last.epoch,
        before=history[0].scores if history else None,
        after=None if last is None or last.epoch == 0 else last.scores,
        seconds={"total": seconds},
        provenance=provenance,
    )
    write_result(paths, result)


def result_of(trial: Trial, **values: Any) -> TrialResult:
    """The result of a trial that ends now; values: what it came to."""
    return TrialResult(
        trial_id=trial.trial_id,
        name=trial.name,
        model=trial.model.name,
        method=trial.label,
        sample=trial.sample,
        hyperparameters=trial.hyperparameters,
        ended=time.time(),
        **values,
    )
