"""The evaluation of one trial as values and files: whether it is outstanding, of which models, and what is written.

for trial in outstanding(plan): ...                     # trials of earlier runs that lack one
models = models_of(plan, store_root, trial, result)       # the model it was made from, and its own
errors = write_files(models, tasks, found)                # evaluation.json and documents.parquet
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from icu_ray.config import SweepConfig
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.documents import with_derived
from icu_ray.evaluation.groups import Group
from icu_ray.evaluation.stage.results import Evaluation, write_documents
from icu_ray.evaluation.suites import open_tasks, with_means
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.methods import RETRAINED
from icu_ray.models.retrained import published_retrained
from icu_ray.models.subjects import Subject
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import DONE, Trial
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.files import write_atomic
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.results import ENDED_EARLY, TrialEvaluation, TrialResult
from icu_ray.storage.store import Store, content_hash
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, write_evaluation
from icu_ray.trial.artefacts import model_key, pinned

log = logging.getLogger(__name__)
_Found = TypeVar("_Found", TrialEvaluation, TrialAudit)


@dataclass(frozen=True)
class TrialModels:
    """A trial's two models that are to be evaluated; they are one and the same where nothing was trained."""

    trial: Trial
    paths: TrialPaths
    before: Subject
    after: Subject

    @property
    def subjects(self) -> tuple[Subject, Subject]:
        return self.before, self.after


def outstanding(plan: Plan) -> tuple[Trial, ...]:
    """Trials that ended before this run and lack an evaluation that the config asks for."""
    tasks = task_hashes(plan.config)
    return tuple(trial for trial in plan.trials if trial.status in DONE and not is_evaluated(plan.config, trial, tasks))


def is_evaluated(config: SweepConfig, trial: Trial, tasks: Mapping[str, str]) -> bool:
    """Whether a trial has a whole evaluation on these tasks, or has no model that could be evaluated."""
    paths = TrialPaths.of(config.storage, config.name, trial.trial_id)
    return is_asked(paths, read_evaluation, lambda found: dict(found.tasks) == dict(tasks) and not found.errors)


def is_asked(paths: TrialPaths, read: Callable[[TrialPaths], _Found | None], whole: Callable[[_Found], bool]) -> bool:
    """Whether what was asked of a trial's model is there: it is whole, and of the model that the trial has now.

    So it is, too, where there is no model that could be asked. read: its file; one that is broken is made again.
    """
    result = read_result(paths)
    if result is not None and result.reason == ENDED_EARLY:
        return True  # there is no model
    try:
        found = read(paths)
    except UserError as error:
        log.warning("made again: %s", error)
        return False
    return found is not None and result is not None and whole(found) and found.models[1] == result.model_hash


def task_hashes(config: SweepConfig) -> dict[str, str]:
    """The tasks that a config asks for, each with a hash of what it asks."""
    names, options = sweep_tasks(config)
    return {source.name: content_hash(dict(source.identity)) for source in open_tasks(names, options)}


def models_of(plan: Plan, root: str, trial: Trial, result: TrialResult) -> TrialModels:
    """The models of a trial that has kept its own. root: the store's place."""
    paths = TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)
    before = _original(plan, root, trial, result)
    after = before
    published = published_retrained(pinned(trial.model))
    if trial.settings.method == RETRAINED and published is not None:
        after = replace(
            before,
            name=trial.name,
            source=str(published.source),
            hash=result.model_hash,
            revision=published.revision,
            trust_remote_code=False,
        )
    elif result.epochs > 0 or trial.settings.method == RETRAINED:
        after = replace(before, name=trial.name, source=paths.model, hash=result.model_hash, revision=None)
    return TrialModels(trial, paths, before, after)


def _original(plan: Plan, root: str, trial: Trial, result: TrialResult) -> Subject:
    model = pinned(trial.model)
    assert plan.data is not None and result.provenance is not None
    source = model.source or ""
    if model.made_here:
        key = model_key(model, plan.config, plan.data.fingerprint)
        source = Store(root).location("models", key)
    return Subject(
        name=model.name,
        source=source,
        hash=result.provenance.model,
        dtype="bfloat16" if model.precision == "bf16" else "float32",
        revision=None if model.made_here else model.revision,
        trust_remote_code=model.trust_remote_code,
        recorded=True,
    )


def _with_means(evaluations: Sequence[Evaluation], groups: Sequence[Group]) -> dict[str, float]:
    metrics = {name: value for each in evaluations for name, value in each.metrics.items()}
    return with_means(metrics, groups, {each.task: each.documents for each in evaluations if not each.error})


def write_files(
    models: TrialModels,
    tasks: Mapping[str, str],
    found: Mapping[tuple[str, str], Evaluation],
    groups: Sequence[Group] = (),
) -> dict[str, str]:
    """Write a trial's evaluation.json and documents.parquet; what could not be evaluated, by task.

    tasks: as `task_hashes`. found: by model and task, of both models and every task. groups: of the
    harness that were asked for.
    """
    distinct = dict.fromkeys(subject.name for subject in models.subjects)
    evaluations = [found[subject, task] for subject in distinct for task in tasks]
    documents = ""
    with scratch_folder() as folder:
        path = folder / "documents.parquet"
        if any(evaluation.table is not None for evaluation in evaluations):
            write_documents(evaluations, path)
            content = path.read_bytes()
            write_atomic(models.paths.documents, content)
            documents = hashlib.sha256(content).hexdigest()
    before, after = (
        with_derived(_with_means(each, groups), {one.task: one.table for one in each if one.table is not None})
        for each in ([found[subject.name, task] for task in tasks] for subject in models.subjects)
    )
    errors = {each.task: f"{each.model}: {each.error}" for each in evaluations if each.error}
    hashes = models.before.hash, models.after.hash
    write_evaluation(models.paths, TrialEvaluation(tasks, hashes, before, after, errors, documents))
    return errors
