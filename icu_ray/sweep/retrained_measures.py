"""Numbers of a benchmark that need the retrained model's rows beside a trial's: forget quality, privleak, and the
membership attack by reference.

    add_retrained_measures(plan)         # once everything is evaluated

The retrained model is a trial of its own, which may end after the others. So these numbers join a trial's
evaluation.json, and those of the models after its epochs, when both are there; nothing is measured for them. The rows
of epochs are read from the store; where they are gone from there, the numbers stay as they are. Numbers of a
model's own rows that an earlier version did not make join its evaluation.json too.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.derived import Documents, beside_retrained, of_model
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task, table_documents, trial_documents
from icu_ray.evaluation.stage.results import find_evaluation
from icu_ray.evaluation.suites import open_tasks
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.evaluation.task import TaskSource
from icu_ray.methods import RETRAINED
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.epoch_files import read_epoch_evaluations, write_epoch_evaluations
from icu_ray.storage.files import join
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.store import Store, content_hash
from icu_ray.storage.trial_files import TrialPaths, read_documents, read_evaluation, write_evaluation
from icu_ray.sweep.trial_evaluation import dtype_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Retrained:
    """What was evaluated of a retrained model. tasks: hash of what decides each. name: hash of all that it tells."""

    tasks: Mapping[str, str]
    documents: Documents
    name: str

    def same(self, tasks: Mapping[str, str]) -> Documents:
        """Its rows of those tasks that ask the same. Numbers of other rows, or by other conventions, do not compare."""
        return {task: known for task, known in self.documents.items() if tasks.get(task) == self.tasks[task]}


_NONE = _Retrained({}, {}, "")


def add_retrained_measures(plan: Plan) -> None:
    """Fill them in for every trial whose retrained model is evaluated too, and set them to None for the others."""
    golds = {(t.model.name, t.sample): t for t in plan.trials if t.settings.method == RETRAINED}
    read: dict[str, _Retrained] = {}
    sources = functools.cache(lambda: open_tasks(*sweep_tasks(plan.config)))
    for trial in plan.trials:
        gold, own = golds.get((trial.model.name, trial.sample)), _evaluated(plan, trial)
        if gold is not None and gold.trial_id not in read:
            read[gold.trial_id] = _retrained(plan, gold)
        theirs = _NONE if gold is None else read[gold.trial_id]
        _add_to_epochs(plan, trial, theirs, sources)
        if own is None:
            continue
        evaluation, data = own
        reference = theirs.same(evaluation.tasks)
        of_original = trial_documents(data, trial.model.name)
        same_model = evaluation.models[0] == evaluation.models[1]
        # A trial that changed nothing has the documents of its model alone; one whose evaluation failed, none.
        of_trial = trial_documents(data, trial.name) or (of_original if same_model else {})
        original = _beside(of_original, reference)
        before = {**evaluation.before, **_alone(of_original, evaluation.before), **original}
        after = {**evaluation.after, **_alone(of_trial, evaluation.after)}
        after |= {**dict.fromkeys(original), **_beside(of_trial, reference)}
        if (before, after) != (dict(evaluation.before), dict(evaluation.after)):
            write_evaluation(_paths(plan, trial), replace(evaluation, before=before, after=after))


def _retrained(plan: Plan, gold: Trial) -> _Retrained:
    known = _evaluated(plan, gold)
    if known is None:
        return _NONE
    evaluation, data = known
    documents = trial_documents(data, gold.name)
    name = content_hash([evaluation.models[1], dict(evaluation.tasks)])
    return _Retrained(evaluation.tasks, {task: documents[task] for task in documents if task in evaluation.tasks}, name)


def _add_to_epochs(plan: Plan, trial: Trial, theirs: _Retrained, sources: Callable[[], list[TaskSource]]) -> None:
    """The same for the models after a trial's epochs that do not stand beside this retrained model yet."""
    paths = _paths(plan, trial)
    try:
        epochs = read_epoch_evaluations(paths)
    except UserError as error:
        log.warning("%s: %s", trial.name, error)
        return
    done = []
    for each in epochs:
        asked = {task for task in each.tasks if benchmark_of_task(task) is not None}
        if asked and each.retrained != theirs.name:
            documents = _stored(plan, trial, each, [source for source in sources() if source.name in asked])
            if asked - set(documents) - set(each.errors):
                log.warning("%s: the rows of epoch %d are not in the store any more", trial.name, each.epoch)
            else:
                metrics = {**each.metrics, **_beside(documents, theirs.same(each.tasks))}
                each = replace(each, metrics=metrics, retrained=theirs.name)
        done.append(each)
    if done != list(epochs):
        write_epoch_evaluations(paths, done)


def _stored(plan: Plan, trial: Trial, epoch: EpochEvaluation, sources: Sequence[TaskSource]) -> Documents:
    """What the store has of an epoch's rows, of those sources that ask what was asked then."""
    store, dtype = Store(join(plan.config.storage, "store")), dtype_of(trial.model)
    same = [each for each in sources if content_hash(dict(each.identity)) == epoch.tasks[each.name]]
    found = {each.name: find_evaluation(store, trial.name, epoch.model, dtype, each) for each in same}
    tables = {task: known.table for task, known in found.items() if known is not None and known.table is not None}
    return table_documents(tables)


def _alone(documents: Documents, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for benchmark in _benchmarks(documents):
        found |= of_model(benchmark, metrics, documents)
    return found


def _benchmarks(documents: Documents) -> list[str]:
    return list(dict.fromkeys(filter(None, map(benchmark_of_task, documents))))


def _beside(documents: Documents, retrained: Documents) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for benchmark in _benchmarks(documents):
        found |= beside_retrained(benchmark, documents, retrained)
    return found


def _paths(plan: Plan, trial: Trial) -> TrialPaths:
    return TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)


def _evaluated(plan: Plan, trial: Trial) -> tuple[TrialEvaluation, bytes] | None:
    """A trial's evaluation with its documents; None where no benchmark was asked, or they cannot be read."""
    paths = _paths(plan, trial)
    try:
        evaluation = read_evaluation(paths)
        if evaluation is None or not any(map(benchmark_of_task, evaluation.tasks)):
            return None  # documents, which may be large and far away, are not fetched for nothing
        data = read_documents(paths.documents, evaluation)
    except UserError as error:
        log.warning("%s: %s", trial.name, error)
        return None
    return None if data is None else (evaluation, data)
