"""Work on the models of finished trials beside those that run: fed as they finish, on the resources they leave.

    class SweepEvaluation(BesideTrials): ...
    with evaluation.running():
        evaluation.waits(trial_id, cpus, gpus); evaluation.placed(trial_id); evaluation.ended(trial_id)
        evaluation.started(trial)          # models of its epochs may come
        evaluation.add(trial)              # a trial that has a model
        evaluation.finish()                # no more will come: take the whole cluster, return when all is done

While trials run or wait, a round of such work takes only what is free, and none begins while a started trial has no
place yet. A round that stands in the way of one ends within seconds, whatever it was doing; what it had found is in the
store, so that the next round goes on from there. What cannot be done fails no trial. Rounds: sweep/rounds.py.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from icu_ray.console.progress import Step
from icu_ray.data.actor_pool import Pool
from icu_ray.evaluation.stage.actors import default_pool
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.storage.files import list_dir
from icu_ray.storage.results import ENDED_EARLY
from icu_ray.storage.trial_files import TrialPaths, read_result
from icu_ray.sweep.rounds import Claims, Round
from icu_ray.sweep.trial_evaluation import TrialModels, models_of

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""A started trial that has no place after this long takes that of the round."""
CRASHES = 3
"""A round that died by itself is begun again so often."""
_LOOK_SECONDS = 0.5


class BesideTrials(ABC):
    """See the module. step: what it is called on the terminal. participle: what is done to a model. failures: what
    could not be done, a line each."""

    step: ClassVar[str]
    participle: ClassVar[str]

    def __init__(self, plan: Plan, root: str, on_step: Callable[[Step], None]) -> None:
        self.plan, self.root, self.on_step = plan, root, on_step
        self.config = plan.config
        self.failures: list[str] = []
        self.backward = False
        """Whether models are differentiated, which takes more memory."""
        self._added: list[TrialModels] = []
        self._running: dict[str, Trial] = {}
        self._claims = Claims()
        self._crashes = 0
        self._written: set[str] = set()
        self._whole_cluster = False
        self._closed = False
        self._round: Round | None = None
        self._failed: BaseException | None = None
        self._changed = threading.Condition()

    @abstractmethod
    def _prepare_round(self, waiting: Sequence[TrialModels], pool: Pool) -> Callable[[], Round] | None:
        """What starts a round over what is still unknown of these; None where nothing can be done of them now."""

    @abstractmethod
    def _heard(self, update: Any, waiting: Sequence[TrialModels]) -> None:
        """What a round told."""

    @abstractmethod
    def _write(self, waiting: Sequence[TrialModels]) -> None:
        """The files of every trial of which all is known, which `_is_written` is told."""

    @abstractmethod
    def _done(self) -> str:
        """What has been done, in a few words."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Work in a thread; needs a running Ray. Leaving before `finish` returned ends what is under way."""
        thread = threading.Thread(target=self._work, name=self.step, daemon=True)
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

    def started(self, trial: Trial) -> None:
        """A trial runs from now on."""
        self._running[trial.trial_id] = trial

    def add(self, trial: Trial) -> None:
        """Work on a trial's model and the one it was made from."""
        result = read_result(TrialPaths.of(self.config.storage, self.config.name, trial.trial_id))
        if result is None or result.status == "failed" or result.reason == ENDED_EARLY:
            return
        if not result.model_hash:
            self.failures.append(
                f"{trial.name}: its model was not kept (resources.keep_models) and is not {self.participle}"
            )
            return
        models = models_of(self.plan, self.root, trial, result)
        if models.after.source == models.paths.model and not list_dir(models.paths.model):
            # Asking it would only put errors in the place of what was measured while it was there.
            self.failures.append(f"{trial.name}: its model is no longer there and is not {self.participle} again")
            return
        self._add(models)

    def _add(self, models: TrialModels) -> None:
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
        self._running.pop(trial_id, None)
        with self._changed:
            self._claims.ended(trial_id)
            self._changed.notify_all()

    def finish(self) -> None:
        """Return when everything that was added is done, or cannot be."""
        with self._changed:
            self._whole_cluster = True
            self._claims.clear()
            self._changed.notify_all()
            while self._open() and self._failed is None:
                self._changed.wait(_LOOK_SECONDS)  # a time, so that an interruption is heard
        if self._failed is not None:
            self.failures.append(f"{self.step} stopped: {type(self._failed).__name__}: {self._failed}")
        elif self._added:
            self.on_step(Step(self.step, 1, self._done()))

    def _look(self) -> None:  # noqa: B027 - most have nothing to look for
        """Look for models of running trials to work on; asked between rounds."""

    def _open(self) -> list[TrialModels]:
        return [each for each in self._added if each.key not in self._written]

    def _work(self) -> None:
        try:
            while not self._closed:
                self._look()
                pool = self._pool() if self._open() else None
                if pool is None:
                    with self._changed:
                        self._changed.wait(_LOOK_SECONDS)
                    continue
                self._work_round(pool)
        except BaseException as error:
            log.exception(self.step)
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _pool(self) -> Pool | None:
        """What a round may take now; None: nothing."""
        import ray

        subjects = [subject for each in self._open() for subject in each.subjects]
        if self._whole_cluster:
            return default_pool(subjects, backward=self.backward)
        if self._claims.any_waits:
            return None
        spare = self._claims.spare(ray.available_resources(), ray.cluster_resources())
        return None if spare is None else default_pool(subjects, spare, backward=self.backward)

    def _work_round(self, pool: Pool) -> None:
        """One round over all that is open; ends early when it is in the way."""
        import ray

        waiting = self._open()
        start = self._prepare_round(waiting, pool)
        if start is not None:
            with self._changed:
                if self._closed:
                    return
                self._round = current = start()
            over = threading.Event()
            watch = threading.Thread(target=self._give_way, args=(current, over), daemon=True)
            watch.start()
            try:
                for update in current:
                    self._heard(update, waiting)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.TaskCancelledError):
                if current.asked_to_end:
                    log.info("%s made room", self.step)
                    return
                self._crashes += 1
                if self._crashes > CRASHES:
                    raise
                log.warning("the process of the %s died; it continues from what the store has", self.step)
                return
            finally:
                over.set()
                watch.join()
                with self._changed:
                    self._round = None
                    current.release()
        self._write(waiting)
        if start is None and self._open():
            with self._changed:
                self._changed.wait(_LOOK_SECONDS)  # for another trial, of which these wait

    def _is_written(self, models: TrialModels) -> None:
        with self._changed:
            self._written.add(models.key)
            self._changed.notify_all()

    def _give_way(self, current: Round, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            with self._changed:
                if self._claims.longest_wait() > PATIENCE_SECONDS and not self._whole_cluster:
                    current.end()
                    return
