"""The waiting trials of a plan on a cluster: preparation, then Tune behind the gate, with the evaluation beside them.

undone = run_trials(plan, unevaluated, provenance, limits, console, logs, interrupted)

Every trial that ends, well or not, leaves its result in storage; what is returned says what was left undone: trials
that the budget did not allow, and evaluations that could not be made.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from icu_ray.estimates import Budget
from icu_ray.plan import Plan, Trial, gang_of
from icu_ray.prepare import Prepared, prepare
from icu_ray.report.live import LiveView, outcome_of
from icu_ray.results import Provenance, TrialPaths
from icu_ray.runtime import CONTROL, Cluster, WarmProcesses, connected, refuse_impossible, worker_environment
from icu_ray.schedule import Limits
from icu_ray.store import join
from icu_ray.trial import TrialTask, trainable, write_failure

if TYPE_CHECKING:
    from icu_ray.sweep_evaluation import SweepEvaluation

log = logging.getLogger(__name__)


def run_trials(
    plan: Plan,
    unevaluated: Sequence[Trial],
    provenance: Provenance,
    limits: Limits,
    console: Console,
    logs: Path,
    interrupted: threading.Event,
) -> list[str]:
    """Run what waits and evaluate what asks for it, `unevaluated` trials of earlier runs too."""
    config = plan.config
    store = join(config.storage, "store")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(connected(keep_logs=logs / "ray"))
        refuse_impossible({t.model.name: gang_of(t) for t in plan.waiting}, cluster.nodes(), limits)
        view = stack.enter_context(LiveView(plan, console))
        evaluation = None
        if config.evaluation.suites or config.evaluation.tasks:
            from icu_ray.sweep_evaluation import SweepEvaluation

            evaluation = SweepEvaluation(plan, store, view.step)
            stack.enter_context(evaluation.running())
            for trial in unevaluated:
                evaluation.add(trial)
        prepared = prepare(plan, store, view.step)
        log.info("prepared: %s", [(note.kind, note.name[:12], note.made) for note in prepared.notes])
        tasks = _tasks(plan, prepared, provenance, store, view)
        undone: list[str] = []
        if tasks:
            warm = WarmProcesses() if cluster.local else None
            running = _Running(plan, tasks, view, evaluation, warm, interrupted)
            _tune(running, cluster, limits, logs)
            undone += running.left()
        if evaluation is not None and not interrupted.is_set():
            evaluation.finish()
            undone += [f"not evaluated: {line}" for line in evaluation.failures]
        return undone


def _tasks(plan: Plan, prepared: Prepared, provenance: Provenance, store: str, view: LiveView) -> dict[str, TrialTask]:
    """What each waiting trial is told, in order; one that cannot be prepared has failed."""
    config = plan.config
    tasks: dict[str, TrialTask] = {}
    for trial in plan.waiting:
        cell = (trial.model.name, trial.sample)
        if cell in prepared.failures:
            paths = TrialPaths.of(config.storage, config.name, trial.trial_id)
            write_failure(trial, paths, prepared.failures[cell], provenance)
            view.ended(trial.trial_id, "failed", prepared.failures[cell])
            continue
        tasks[trial.trial_id] = TrialTask(
            trial,
            prepared.ingredients[cell],
            config.storage,
            config.name,
            store,
            config.resources.retries,
            # The evaluation removes what is not to be kept.
            config.resources.keep_models or bool(config.evaluation.suites or config.evaluation.tasks),
            config.resources.epoch_minutes,
            replace(provenance, model=prepared.ingredients[cell].model_hash),
        )
    return tasks


@dataclass
class _Running:
    """Who is to hear what happens to the trials."""

    plan: Plan
    tasks: Mapping[str, TrialTask]
    view: LiveView
    evaluation: SweepEvaluation | None
    warm: WarmProcesses | None
    interrupted: threading.Event
    trials: list[Trial] = field(init=False)
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.plan.config, self.plan.trials)
        self._started: set[str] = set()
        self._died: Counter[str] = Counter()
        self._gangs: Counter[str] = Counter()
        self.trials = [task.trial for task in self.tasks.values()]
        if self.warm is not None:
            self.warm.keep(sum(trial.workers for trial in self.trials[:2]))

    def over(self) -> bool:
        """Whether no further trial may start."""
        return self.interrupted.is_set() or bool(self.budget.used_up())

    def left(self) -> list[str]:
        """Trials that the budget did not allow."""
        names = [trial.name for trial in self.trials if trial.trial_id not in self._started]
        if not names or self.interrupted.is_set():
            return []
        return [f"{self.budget.used_up()}: {len(names)} trials were not started: {', '.join(names)}"]

    def start(self, trial_id: str) -> None:
        self._started.add(trial_id)
        self.budget.started(self.tasks[trial_id].trial)
        self.view.started(trial_id)
        if self.evaluation is not None:
            self.evaluation.waits(trial_id)

    def gang(self, trial_id: str, workers: int, next_workers: int) -> None:
        self._gangs[trial_id] += 1
        if self._gangs[trial_id] > 1:
            self.view.restarted(trial_id)
        if self.evaluation is not None:
            self.evaluation.placed(trial_id)
        if self.warm is not None:
            self.warm.taken(workers)
            self.warm.keep(next_workers)

    def end(self, trial_id: str, broke: bool, group: str | None) -> bool:
        """Whether the trial is to go on from its checkpoint, because its process on the cluster died."""
        if broke and group is not None:
            from icu_ray.trainer import remove_gang

            remove_gang(group)
        task = self.tasks[trial_id]
        self.budget.ended(task.trial)
        outcome = outcome_of(self.plan, trial_id)
        if outcome is None and not self.interrupted.is_set():
            self._died[trial_id] += 1
            if self._died[trial_id] <= task.retries:
                log.warning("the process of trial %s died; it goes on from its checkpoint", task.trial.name)
                self._started.discard(trial_id)
                if self.evaluation is not None:
                    self.evaluation.placed(trial_id)
                return True
            reason = "its driver process on the cluster died"
            write_failure(task.trial, task.paths, reason, task.provenance)
            outcome = ("failed", reason)
        if outcome is not None:
            self.view.ended(trial_id, *outcome)
        if self.evaluation is not None:
            self.evaluation.placed(trial_id)
            self.evaluation.add(task.trial)
        return False


def _tune(running: _Running, cluster: Cluster, limits: Limits, logs: Path) -> None:
    from ray import tune

    # Imports Ray, which must not be before `connected` has said how processes know each other.
    from icu_ray.gate import Gate, StopWhenAsked

    gate = Gate(running.trials, cluster.nodes, limits, running.start, running.gang, running.end, running.over)
    function: Any = trainable(running.tasks, worker_environment(cluster.local))
    tuner = tune.Tuner(
        tune.with_resources(function, CONTROL),
        tune_config=tune.TuneConfig(search_alg=gate, num_samples=-1, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(logs.resolve()),
            verbose=0,
            stop=StopWhenAsked(running.interrupted.is_set),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
