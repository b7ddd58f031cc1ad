"""The evaluation of a sweep's models beside its trials: one stage, fed as they finish, on the resources they leave.

    stage = SweepEvaluation(plan, store_root, on_step)      # where config.evaluation.asked
    with stage.running():
        stage.waits(trial_id, cpus, gpus); stage.placed(trial_id); stage.ended(trial_id)
        stage.add(trial)              # a trial that has a model
        stage.finish()                # no more will come: take the whole cluster, return when all is evaluated

While trials run or wait, a round of evaluation takes only what is free, and none begins while a started trial has no
place yet. A round that stands in the way of one ends within seconds, whatever it was doing; each slice it had answered
is in the store, so that the next round goes on from there. What cannot be evaluated fails no trial.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from icu_ray.config import SweepConfig
from icu_ray.console.streaming import streamed
from icu_ray.errors import UserError
from icu_ray.evaluation.stage.actors import Answered, Pool, Subject, default_pool
from icu_ray.evaluation.stage.results import Evaluation, write_documents
from icu_ray.evaluation.stage.run import evaluate_models
from icu_ray.evaluation.suites import Options, open_tasks, with_means
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import DONE, Trial
from icu_ray.services.evaluate import sweep_tasks
from icu_ray.storage.files import write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.results import ENDED_EARLY, TrialEvaluation, TrialResult
from icu_ray.storage.store import Store, content_hash
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, write_evaluation
from icu_ray.sweep.prepare import Step
from icu_ray.trial.artefacts import model_key, pinned

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""A started trial that has no place after this long takes that of the evaluation."""
CRASHES = 3
"""A round that died by itself is begun again so often."""
_LOOK_SECONDS = 0.5
STEP = "evaluation"


@dataclass(frozen=True)
class _Evaluated:
    """A trial whose two models are to be evaluated."""

    trial: Trial
    paths: TrialPaths
    before: Subject
    after: Subject

    @property
    def subjects(self) -> tuple[Subject, Subject]:
        return self.before, self.after


def outstanding(plan: Plan) -> tuple[Trial, ...]:
    """Trials that ended before this run and lack an evaluation that the config asks for."""
    tasks = _task_hashes(plan.config)
    return tuple(
        trial for trial in plan.trials if trial.status in DONE and not _is_evaluated(plan.config, trial, tasks)
    )


def _is_evaluated(config: SweepConfig, trial: Trial, tasks: Mapping[str, str]) -> bool:
    paths = TrialPaths.of(config.storage, config.name, trial.trial_id)
    result = read_result(paths)
    if result is not None and result.reason == ENDED_EARLY:
        return True  # there is no model
    try:
        found = read_evaluation(paths)
    except UserError as error:
        log.warning("made again: %s", error)
        return False
    return (
        found is not None
        and result is not None
        and dict(found.tasks) == dict(tasks)
        and not found.errors
        and found.models[1] == result.model_hash
    )


def _task_hashes(config: SweepConfig) -> dict[str, str]:
    names, options = sweep_tasks(config)
    return {source.name: content_hash(dict(source.identity)) for source in open_tasks(names, options)}


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
        self.tasks = _task_hashes(self.config)
        self._added: list[_Evaluated] = []
        self._waiting: dict[str, float] = {}
        self._claims: dict[str, dict[str, float]] = {}
        self._asked_to_end = False
        self._crashes = 0
        self._found: dict[tuple[str, str], Evaluation] = {}
        self._written: set[str] = set()
        self._whole_cluster = False
        self._closed = False
        self._round: Any = None
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
                self._end_round()
                self._changed.notify_all()
            thread.join(timeout=10)

    def add(self, trial: Trial) -> None:
        """Evaluate a trial's model and the one it was made from."""
        paths = TrialPaths.of(self.config.storage, self.config.name, trial.trial_id)
        result = read_result(paths)
        if result is None or result.status == "failed" or result.reason == ENDED_EARLY:
            return
        if not result.model_hash:
            self.failures.append(f"{trial.name}: its model was not kept (resources.keep_models) and is not evaluated")
            return
        before = self._original(trial, result)
        after = before
        if result.epochs > 0:
            after = replace(before, name=trial.name, source=paths.model, hash=result.model_hash, revision=None)
        with self._changed:
            self._added.append(_Evaluated(trial, paths, before, after))
            self._changed.notify_all()

    def _original(self, trial: Trial, result: TrialResult) -> Subject:
        model = pinned(trial.model)
        assert self.plan.data is not None and result.provenance is not None
        source = model.source
        if source is None:
            key = model_key(model, self.config.columns.value(), self.plan.data.fingerprint)
            source = Store(self.root).location("models", key)
        return Subject(
            name=model.name,
            source=source,
            hash=result.provenance.model,
            dtype="bfloat16" if model.precision == "bf16" else "float32",
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
        )

    def waits(self, trial_id: str, cpus: float, gpus: float) -> None:
        """A trial was started that is to have so much, and has no place yet."""
        with self._changed:
            self._claims[trial_id] = {"CPU": cpus, "GPU": gpus}
            self._waiting[trial_id] = time.monotonic()

    def placed(self, trial_id: str) -> None:
        """It has a place."""
        with self._changed:
            self._waiting.pop(trial_id, None)
            self._changed.notify_all()

    def ended(self, trial_id: str) -> None:
        """It needs none any more."""
        with self._changed:
            self._claims.pop(trial_id, None)
            self._waiting.pop(trial_id, None)
            self._changed.notify_all()

    def finish(self) -> None:
        """Return when everything that was added is evaluated, or cannot be."""
        with self._changed:
            self._whole_cluster = True
            self._waiting.clear()
            self._claims.clear()
            self._changed.notify_all()
            while self._open() and self._failed is None:
                self._changed.wait(_LOOK_SECONDS)  # a time, so that an interruption is heard
        if self._failed is not None:
            self.failures.append(f"evaluation stopped: {type(self._failed).__name__}: {self._failed}")
        elif self._added:
            models = len({subject.hash for each in self._added for subject in each.subjects})
            self.on_step(Step(STEP, 1, f"{models} models on {len(self.tasks)} tasks"))

    def _open(self) -> list[_Evaluated]:
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
        if self._waiting:
            return None
        free, whole = ray.available_resources(), ray.cluster_resources()
        # A trial whose workers are being started anew holds nothing for a moment, and is to find its place free.
        for kind in ("CPU", "GPU"):
            claimed = sum(claim[kind] for claim in self._claims.values())
            free[kind] = min(free.get(kind, 0.0), whole.get(kind, 0.0) - claimed)
        kind = "GPU" if "GPU" in whole else "CPU"
        return default_pool(subjects, free) if free.get(kind, 0) >= 1 and free.get("CPU", 0) >= 1 else None

    def _evaluate(self, pool: Pool) -> None:
        """One round over all that is open; ends early when it is in the way."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        waiting = self._open()
        subjects = list({s.name: s for each in waiting for s in each.subjects if not self._known(s)}.values())
        if subjects:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            task = ray.remote(num_cpus=0, num_returns="streaming", max_retries=0, scheduling_strategy=here)(_round)
            with self._changed:
                self._asked_to_end = False
                self._round = task.remote(self.root, subjects, self.names, self.options, pool)
            over = threading.Event()
            watch = threading.Thread(target=self._give_way, args=(over,), name="evaluation-watch", daemon=True)
            watch.start()
            try:
                for reference in self._round:
                    told = ray.get(reference)
                    if isinstance(told, Evaluation):
                        self._found[told.model, told.task] = told
                        self._write(waiting)
                    self._tell(told)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.TaskCancelledError):
                if self._asked_to_end:
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
                    # No thread may hold it when Ray is shut down: letting go of it then ends the process.
                    self._round = None
        self._write(waiting)

    def _give_way(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            with self._changed:
                overdue = [s for s in self._waiting.values() if time.monotonic() - s > PATIENCE_SECONDS]
                if overdue and not self._whole_cluster:
                    self._end_round()
                    return

    def _end_round(self) -> None:
        import ray

        if self._round is not None:
            self._asked_to_end = True
            ray.cancel(self._round, force=True)

    def _known(self, subject: Subject) -> bool:
        return all((subject.name, name) in self._found for name in self.tasks)

    def _tell(self, told: Answered | Evaluation) -> None:
        total = len({s.name for each in self._added for s in each.subjects}) * len(self.tasks)
        name = told.model if isinstance(told, Evaluation) else told.subject
        if total:
            self.on_step(Step(STEP, min(len(self._found) / total, 0.999), f"{name}: {told.task}"))

    def _write(self, waiting: Sequence[_Evaluated]) -> None:
        """evaluation.json and documents.parquet of every trial of which all is known."""
        for each in waiting:
            if each.trial.trial_id in self._written or not all(map(self._known, each.subjects)):
                continue
            distinct = dict.fromkeys(s.name for s in each.subjects)
            evaluations = [self._found[subject, name] for subject in distinct for name in self.tasks]
            with tempfile.TemporaryDirectory(prefix="icu_ray_documents_") as folder:
                path = Path(folder) / "documents.parquet"
                if any(found.table is not None for found in evaluations):
                    write_documents(evaluations, path)
                    write_atomic(each.paths.documents, path.read_bytes())
            before, after = (self._metrics(subject) for subject in each.subjects)
            errors = {found.task: f"{found.model}: {found.error}" for found in evaluations if found.error}
            lines = [f"{task} of {error}" for task, error in errors.items()]
            self.failures += [line for line in lines if line not in self.failures]
            write_evaluation(
                each.paths, TrialEvaluation(self.tasks, (each.before.hash, each.after.hash), before, after, errors)
            )
            if not self.config.resources.keep_models and not errors:
                remove(each.paths.model)
            with self._changed:
                self._written.add(each.trial.trial_id)
                self._changed.notify_all()

    def _metrics(self, subject: Subject) -> dict[str, float]:
        found = [self._found[subject.name, name].metrics for name in self.tasks]
        return with_means({name: value for metrics in found for name, value in metrics.items()})


def _round(
    root: str, subjects: Sequence[Subject], names: Sequence[str], options: Options, pool: Pool
) -> Iterator[Answered | Evaluation]:
    """A streaming task: it, and with it its actors, can be ended at any time from outside."""

    def work(tell: Callable[[Answered | Evaluation], None]) -> None:
        sources = open_tasks(names, options)
        evaluate_models(subjects, sources, Store(root), pool=pool, on_slice=tell, on_done=tell)

    yield from streamed(work)
