"""The evaluation of one trial as values and files: whether it is outstanding, of which models, and what is written.

for trial in outstanding(plan): ...                     # trials of earlier runs that lack one
models = models_of(plan, store_root, trial, result)       # the model it was made from, and its own
errors = write_files(models, tasks, found)                # evaluation.json and documents.parquet
for models in epochs_of(config, trial): ...               # models after its epochs (evaluation.when=epochs)
errors = write_epoch(models, tasks, found)                # a line of epochs/evaluations.jsonl
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.documents import with_derived
from icu_ray.evaluation.groups import Group
from icu_ray.evaluation.stage.results import Evaluation, write_documents
from icu_ray.evaluation.suites import open_tasks, with_means
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.methods import RETRAINED
from icu_ray.models.loading import Dtype
from icu_ray.models.retrained import published_retrained
from icu_ray.models.subjects import Subject
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import DONE, Trial
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.epoch_files import add_epoch_evaluation, epoch_model, kept_epochs, kept_hash
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
    """A trial's two models that are to be evaluated; they are one and the same where nothing was trained.

    epoch: both are the model after this one; None: they are those before and after the trial.
    """

    trial: Trial
    paths: TrialPaths
    before: Subject
    after: Subject
    epoch: int | None = None

    @property
    def key(self) -> str:
        """Tells it from others of a sweep; of an epoch that is trained again, from what was there before."""
        trial_id = self.trial.trial_id
        return trial_id if self.epoch is None else f"{trial_id} {self.epoch} {self.after.hash}"

    @property
    def subjects(self) -> tuple[Subject, Subject]:
        return self.before, self.after


def outstanding(plan: Plan) -> tuple[Trial, ...]:
    """Trials that ended before this run and lack an evaluation that the config asks for, their own or of an epoch."""
    config, tasks = plan.config, task_hashes(plan.config)
    done = (trial for trial in plan.trials if trial.status in DONE)
    return tuple(each for each in done if not is_evaluated(config, each, tasks) or epochs_of(config, each))


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


def epochs_of(config: SweepConfig, trial: Trial) -> list[TrialModels]:
    """The models after epochs that a trial has left and that were not evaluated; [] unless evaluation.when=epochs."""
    if not config.evaluation.by_epoch:
        return []
    paths = TrialPaths.of(config.storage, config.name, trial.trial_id)
    found = []
    for epoch, model_hash in kept_epochs(paths).items():
        model = Subject(
            name=f"{trial.name} after epoch {epoch} ({model_hash[:6]})",
            source=epoch_model(paths, epoch),
            hash=model_hash,
            dtype=dtype_of(trial.model),
            trust_remote_code=trial.model.trust_remote_code,
            recorded=True,
        )
        found.append(TrialModels(trial, paths, model, model, epoch))
    return found


def dtype_of(model: ModelConfig) -> Dtype:
    """In which precision a model of the sweep is asked."""
    return "bfloat16" if model.precision == "bf16" else "float32"


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
        dtype=dtype_of(model),
        revision=None if model.made_here else model.revision,
        trust_remote_code=model.trust_remote_code,
        recorded=True,
    )


def _metrics(evaluations: Sequence[Evaluation], groups: Sequence[Group]) -> dict[str, float | None]:
    """Of one model, with means of groups and what a benchmark's sets say together."""
    metrics = {name: value for each in evaluations for name, value in each.metrics.items()}
    documents = {each.task: each.documents for each in evaluations if not each.error}
    tables = {each.task: each.table for each in evaluations if each.table is not None}
    return with_derived(with_means(metrics, groups, documents), tables)


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
    before, after = (_metrics([found[subject.name, task] for task in tasks], groups) for subject in models.subjects)
    errors = {each.task: f"{each.model}: {each.error}" for each in evaluations if each.error}
    hashes = models.before.hash, models.after.hash
    write_evaluation(models.paths, TrialEvaluation(tasks, hashes, before, after, errors, documents))
    return errors


def write_epoch(
    models: TrialModels,
    tasks: Mapping[str, str],
    found: Mapping[tuple[str, str], Evaluation],
    groups: Sequence[Group] = (),
) -> dict[str, str] | None:
    """Write what was evaluated of the model after an epoch; arguments and result as those of `write_files`.

    None, and nothing is written, where the epoch was trained anew meanwhile and its model is another one now.
    """
    model = models.after
    if models.epoch is None or kept_hash(models.paths, models.epoch) != model.hash:
        return None
    evaluations = [found[model.name, task] for task in tasks]
    errors = {each.task: f"{each.model}: {each.error}" for each in evaluations if each.error}
    metrics = _metrics(evaluations, groups)
    add_epoch_evaluation(models.paths, EpochEvaluation(models.epoch, model.hash, tasks, metrics, errors))
    return errors
