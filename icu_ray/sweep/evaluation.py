"""The evaluation of a sweep's models beside its trials: fed as they finish, on the resources they leave.

    evaluation = SweepEvaluation(plan, store_root, on_step)      # where config.evaluation.asked
    with evaluation.running():
        evaluation.waits(trial_id, cpus, gpus); evaluation.placed(trial_id); evaluation.ended(trial_id)
        evaluation.add(trial)              # a trial that has a model
        evaluation.finish()                # no more will come: take the whole cluster, return when all is evaluated

While trials run or wait, a round of evaluation takes only what is free, and none begins while a started trial has no
place yet. A round that stands in the way of one ends within seconds, whatever it was doing; each slice it had answered
is in the store, so that the next round goes on from there. What cannot be evaluated fails no trial.

A round and what it may take: sweep/evaluation_rounds.py. A trial's models and files: sweep/trial_evaluation.py.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from icu_ray.console.progress import Step
from icu_ray.evaluation.stage.actors import Pool, default_pool
from icu_ray.evaluation.stage.results import Evaluation
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.models.subjects import Subject
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.storage.files import list_dir
from icu_ray.storage.folders import remove
from icu_ray.storage.results import ENDED_EARLY
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.sweep.evaluation_rounds import Claims, Round, Update
from icu_ray.sweep.trial_evaluation import TrialModels, models_of, task_hashes, write_files

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""A started trial that has no place after this long takes that of the evaluation."""
CRASHES = 3
"""A round that died by itself is begun again so often."""
_LOOK_SECONDS = 0.5
STEP = "evaluation"


@dataclass
class SweepEvaluation:
    """See the module. `failures`: what could not be evaluated, a line each."""

    plan: Plan
    root: str
    on_step: Callable[[Step], None]
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = self.plan.config
        self.names, self.options = sweep_tasks(self.config)
        self.tasks = task_hashes(self.config)
        self._added: list[TrialModels] = []
        self._claims = Claims()
        self._crashes = 0
        self._found: dict[tuple[str, str], Evaluation] = {}
        self._written: set[str] = set()
        self._whole_cluster = False
        self._closed = False
        self._round: Round | None = None
        self._failed: BaseException | None = None
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Evaluate in a thread; needs a running Ray. Leaving before `finish` returned ends what is under way."""
        thread = threading.Thread(target=self._work, name="evaluation", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._closed = True
                if self._round is not None:
                    self._round.end()
                self._changed.notify_all()
            thread.join(timeout=10)

    def add(self, trial: Trial) -> None:
        """Evaluate a trial's model and the one it was made from."""
        result = read_result(TrialPaths.of(self.config.storage, self.config.name, trial.trial_id))
        if result is None or result.status == "failed" or result.reason == ENDED_EARLY:
            return
        if not result.model_hash:
            self.failures.append(f"{trial.name}: its model was not kept (resources.keep_models) and is not evaluated")
            return
        models = models_of(self.plan, self.root, trial, result)
        if models.after.source == models.paths.model and not list_dir(models.paths.model):
            # Asking it would only put errors in the place of what was measured while it was there.
            self.failures.append(f"{trial.name}: its model is no longer there and is not evaluated anew")
            return
        with self._changed:
            self._added.append(models)
            self._changed.notify_all()

    def waits(self, trial_id: str, cpus: float, gpus: float) -> None:
        """A trial was started that is to have so much, and has no place yet."""
        with self._changed:
            self._claims.waits(trial_id, cpus, gpus)

    def placed(self, trial_id: str) -> None:
        """It has a place."""
        with self._changed:
            self._claims.placed(trial_id)
            self._changed.notify_all()

    def ended(self, trial_id: str) -> None:
        """It needs none any more."""
        with self._changed:
            self._claims.ended(trial_id)
            self._changed.notify_all()

    def finish(self) -> None:
        """Return when everything that was added is evaluated, or cannot be."""
        with self._changed:
            self._whole_cluster = True
            self._claims.clear()
            self._changed.notify_all()
            while self._open() and self._failed is None:
                self._changed.wait(_LOOK_SECONDS)  # a time, so that an interruption is heard
        if self._failed is not None:
            self.failures.append(f"evaluation stopped: {type(self._failed).__name__}: {self._failed}")
        elif self._added:
            models = len({subject.hash for each in self._added for subject in each.subjects})
            self.on_step(Step(STEP, 1, f"{models} models on {len(self.tasks)} tasks"))

    def _open(self) -> list[TrialModels]:
        return [each for each in self._added if each.trial.trial_id not in self._written]

    def _work(self) -> None:
        try:
            while not self._closed:
                pool = self._pool() if self._open() else None
                if pool is None:
                    with self._changed:
                        self._changed.wait(_LOOK_SECONDS)
                    continue
                self._evaluate(pool)
        except BaseException as error:
            log.exception("evaluation")
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _pool(self) -> Pool | None:
        """What a round may take now; None: nothing."""
        import ray

        subjects = [subject for each in self._open() for subject in each.subjects]
        if self._whole_cluster:
            return default_pool(subjects)
        if self._claims.any_waits:
            return None
        spare = self._claims.spare(ray.available_resources(), ray.cluster_resources())
        return None if spare is None else default_pool(subjects, spare)

    def _evaluate(self, pool: Pool) -> None:
        """One round over all that is open; ends early when it is in the way."""
        import ray

        waiting = self._open()
        subjects = list({s.name: s for each in waiting for s in each.subjects if not self._known(s)}.values())
        if subjects:
            with self._changed:
                self._round = current = Round(self.root, subjects, self.names, self.options, pool)
            over = threading.Event()
            watch = threading.Thread(target=self._give_way, args=(current, over), name="evaluation-watch", daemon=True)
            watch.start()
            try:
                for update in current:
                    if isinstance(update, Evaluation):
                        self._found[update.model, update.task] = update
                        self._write(waiting)
                    self._tell(update)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.TaskCancelledError):
                if current.asked_to_end:
                    log.info("evaluation made room")
                    return
                self._crashes += 1
                if self._crashes > CRASHES:
                    raise
                log.warning("the evaluation's process died; it goes on from what the store has")
                return
            finally:
                over.set()
                watch.join()
                with self._changed:
                    self._round = None
                    current.release()
        self._write(waiting)

    def _give_way(self, current: Round, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            with self._changed:
                if self._claims.longest_wait() > PATIENCE_SECONDS and not self._whole_cluster:
                    current.end()
                    return

    def _known(self, subject: Subject) -> bool:
        return all((subject.name, name) in self._found for name in self.tasks)

    def _tell(self, update: Update) -> None:
        total = len({s.name for each in self._added for s in each.subjects}) * len(self.tasks)
        name = update.model if isinstance(update, Evaluation) else update.subject
        if total:
            self.on_step(Step(STEP, min(len(self._found) / total, 0.999), f"{name}: {update.task}"))

    def _write(self, waiting: Sequence[TrialModels]) -> None:
        """The files of every trial of which all is known."""
        for models in waiting:
            if models.trial.trial_id in self._written or not all(map(self._known, models.subjects)):
                continue
            errors = write_files(models, self.tasks, self._found)
            lines = [f"{task} of {error}" for task, error in errors.items()]
            self.failures += [line for line in lines if line not in self.failures]
            if not self.config.resources.keep_models and not errors:
                remove(models.paths.model)
            with self._changed:
                self._written.add(models.trial.trial_id)
                self._changed.notify_all()
