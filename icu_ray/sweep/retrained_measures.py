"""Numbers of a benchmark that need the retrained model's rows beside a trial's: forget quality, privleak, and the
membership attack by reference.

    add_retrained_measures(plan)         # once everything is evaluated

The retrained model is a trial of its own, which may end after the others. So these numbers join a trial's
evaluation.json when both are there; nothing is measured for them. So do numbers of a model's own rows that an earlier
version did not make.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.derived import Documents, beside_retrained, of_model
from icu_ray.evaluation.benchmarks.documents import benchmark_of_task, trial_documents
from icu_ray.methods import RETRAINED
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, read_documents, read_evaluation, write_evaluation

log = logging.getLogger(__name__)


def add_retrained_measures(plan: Plan) -> None:
    """Fill them in for every trial whose retrained model is evaluated too, and set them to None for the others."""
    golds = {(t.model.name, t.sample): t for t in plan.trials if t.settings.method == RETRAINED}
    read: dict[str, tuple[TrialEvaluation, Documents] | None] = {}
    for trial in plan.trials:
        gold, own = golds.get((trial.model.name, trial.sample)), _evaluated(plan, trial)
        if own is None:
            continue
        if gold is not None and gold.trial_id not in read:
            known = _evaluated(plan, gold)
            read[gold.trial_id] = None if known is None else (known[0], trial_documents(known[1], gold.name))
        theirs = None if gold is None else read[gold.trial_id]
        evaluation, data = own
        reference: Documents = {}
        if theirs is not None:
            # Numbers of other rows, or by other conventions, are not compared.
            same = {task for task, digest in evaluation.tasks.items() if theirs[0].tasks.get(task) == digest}
            reference = {task: known for task, known in theirs[1].items() if task in same}
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
