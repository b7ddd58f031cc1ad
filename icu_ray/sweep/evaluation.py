"""The evaluation of a sweep's models beside its trials.

    evaluation = SweepEvaluation(plan, store_root, on_step)      # where config.evaluation.asked
    with evaluation.running(): ...                               # sweep/beside.py

Each slice that was answered is in the store. A trial's models and files: sweep/trial_evaluation.py. With
evaluation.when=epochs running trials leave the models of their epochs; these are evaluated like the others, in the next
round after they were found, and then removed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from icu_ray.console.progress import Step
from icu_ray.console.streaming import streamed
from icu_ray.data.actor_pool import Pool
from icu_ray.evaluation.benchmarks.tasks import GRADIENT
from icu_ray.evaluation.stage.actors import Answered
from icu_ray.evaluation.stage.results import Evaluation
from icu_ray.evaluation.stage.run import evaluate_models
from icu_ray.evaluation.suites import Options, open_tasks
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.models.subjects import Subject
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.storage.epoch_files import drop_epoch_model
from icu_ray.storage.folders import remove
from icu_ray.storage.store import Store
from icu_ray.sweep.beside import BesideTrials
from icu_ray.sweep.rounds import Round
from icu_ray.sweep.trial_evaluation import (
    TrialModels,
    epochs_of,
    is_evaluated,
    task_hashes,
    write_epoch,
    write_files,
)

log = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0
"""How often running trials are looked at for models of epochs."""
Update: TypeAlias = Answered | Evaluation


class SweepEvaluation(BesideTrials):
    """Answers what the config's tasks ask of every model."""

    step, participle = "evaluation", "evaluated"

    def __init__(self, plan: Plan, root: str, on_step: Callable[[Step], None]) -> None:
        super().__init__(plan, root, on_step)
        self.names, self.options = sweep_tasks(self.config)
        self.tasks = task_hashes(self.config)
        self.backward = any(name.endswith(GRADIENT) for name in self.names)
        self._found: dict[tuple[str, str], Evaluation] = {}
        self._dropped: set[str] = set()  # epochs whose models were removed, by key
        self._looked = 0.0

    def add(self, trial: Trial) -> None:
        """Its own model, unless that is evaluated already, and those of its epochs that are left, however it ended."""
        self._add_epochs(trial)
        if not is_evaluated(self.config, trial, self.tasks):
            super().add(trial)

    def _look(self) -> None:
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for trial in list(self._running.values()):
            try:
                self._add_epochs(trial)
            except OSError as error:  # a storage that is away for a moment
                log.warning("models of the epochs of %s: %s", trial.name, error)

    def _add_epochs(self, trial: Trial) -> None:
        found = epochs_of(self.config, trial)
        with self._changed:  # a trial that ends is looked at from another thread
            known = {each.key for each in self._added}
            for models in found:
                if models.key in self._dropped:  # trained again alike, after an interruption: what it said is known
                    self._dropped.discard(models.key)
                    self._written.discard(models.key)
                elif models.key not in known:
                    self._add(models)

    def _prepare_round(self, waiting: Sequence[TrialModels], pool: Pool) -> Callable[[], Round] | None:
        subjects = list({s.name: s for each in waiting for s in each.subjects if not self._known(s)}.values())
        if not subjects:
            return None
        return partial(Round, _round, self.root, subjects, self.names, self.options, pool)

    def _heard(self, update: Update, waiting: Sequence[TrialModels]) -> None:
        if isinstance(update, Evaluation):
            self._found[update.model, update.task] = update
            self._write(waiting)
        self._tell(update)

    def _done(self) -> str:
        models = len({subject.hash for each in self._added for subject in each.subjects})
        return f"{models} models on {len(self.tasks)} tasks"

    def _known(self, subject: Subject) -> bool:
        return all((subject.name, name) in self._found for name in self.tasks)

    def _tell(self, update: Update) -> None:
        total = len({s.name for each in self._added for s in each.subjects}) * len(self.tasks)
        name = update.model if isinstance(update, Evaluation) else update.subject
        if total:
            self.on_step(Step(self.step, min(len(self._found) / total, 0.999), f"{name}: {update.task}"))

    def _write(self, waiting: Sequence[TrialModels]) -> None:
        """The files of every trial of which all is known."""
        for models in waiting:
            if models.key in self._written or not all(map(self._known, models.subjects)):
                continue
            if models.epoch is not None:
                self._write_epoch(models)
                continue
            errors = write_files(models, self.tasks, self._found, self.options.groups)
            self._tell_errors(errors)
            if not self.config.resources.keep_models and not self.config.audit.asked and not errors:
                remove(models.paths.model)
            self._is_written(models)

    def _write_epoch(self, models: TrialModels) -> None:
        """What is known of the model after an epoch, which is not needed any more; it stays for another try where
        something failed."""
        errors = write_epoch(models, self.tasks, self._found, self.options.groups)
        if errors is not None:
            self._tell_errors(errors)
            if not errors and models.epoch is not None:
                drop_epoch_model(models.paths, models.epoch)
                self._dropped.add(models.key)
        self._is_written(models)

    def _tell_errors(self, errors: Mapping[str, str]) -> None:
        lines = [f"{task} of {error}" for task, error in errors.items()]
        self.failures += [line for line in lines if line not in self.failures]


def _round(
    root: str, subjects: Sequence[Subject], names: Sequence[str], options: Options, pool: Pool
) -> Iterator[Update]:
    def work(tell: Callable[[Update], None]) -> None:
        sources = open_tasks(names, options)
        evaluate_models(subjects, sources, Store(root), pool=pool, on_slice=tell, on_done=tell)

    yield from streamed(work)
