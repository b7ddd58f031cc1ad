"""The waiting trials of a plan on a cluster: preparation, then Tune behind the gate, with the evaluation beside them.

undone = run_trials(plan, unevaluated, provenance, limits, console, logs, interrupted, on_loss)

Every trial that ends, well or not, leaves its result in storage; what is returned says what was left undone: trials
that the budget did not allow, and evaluations that could not be made.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from icu_ray.cluster.environment import worker_environment
from icu_ray.cluster.head_watch import watched_head
from icu_ray.cluster.nodes import refuse_impossible
from icu_ray.cluster.runtime import CONTROL, Cluster, connected
from icu_ray.config import SweepConfig
from icu_ray.plan.budget import Budget
from icu_ray.plan.grid import Plan, claims_of, coming_trial
from icu_ray.plan.schedule import Limits
from icu_ray.plan.trial import Trial, gang_of
from icu_ray.report.terminal.live import LiveView, outcome_of
from icu_ray.storage.files import join
from icu_ray.storage.folders import remove
from icu_ray.storage.results import ENDED_EARLY, Provenance
from icu_ray.storage.trial_files import TrialPaths, open_sweep
from icu_ray.sweep.prepare import Prepared, prepare
from icu_ray.trial.artefacts import pinned
from icu_ray.trial.task import TrialTask, spec_of, write_failure
from icu_ray.trial.trainable import HandedTask, trainable
from icu_ray.trial.worker_pool import WarmProcesses

if TYPE_CHECKING:
    from ray.tune.search import Searcher

    from icu_ray.sweep.evaluation import SweepEvaluation

log = logging.getLogger(__name__)
_PREPARATION = "preparation"


def run_trials(
    plan: Plan,
    unevaluated: Sequence[Trial],
    provenance: Provenance,
    limits: Limits,
    console: Console,
    logs: Path,
    interrupted: threading.Event,
    on_loss: Callable[[str], None],
) -> list[str]:
    """Run what waits and evaluate what asks for it, `unevaluated` trials of earlier runs too.

    on_loss: told, in a thread of its own, why Ray is gone, when it is; must end the process.
    """
    config = plan.config
    store = join(config.storage, "store")
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(connected(keep_logs=logs / "ray"))
        stack.enter_context(watched_head(on_loss))
        refuse_impossible(claims_of(plan, plan.waiting), cluster.nodes(config.resources.node_types), limits)
        searcher = _searcher(plan)
        from icu_ray.sweep.operator_metrics import OperatorMetrics  # imports Ray

        view = stack.enter_context(LiveView(plan, console, OperatorMetrics(plan).observe))
        evaluation = None
        if config.evaluation.asked:
            from icu_ray.sweep.evaluation import SweepEvaluation

            evaluation = SweepEvaluation(plan, store, view.step)
            stack.enter_context(evaluation.running())
            # The preparation comes first: nothing is evaluated before it is done.
            evaluation.waits(_PREPARATION, 0, 0)
            for trial in unevaluated:
                evaluation.add(trial)
        # A search's trials are not known yet, but what they will need is.
        coming = (coming_trial(plan),) if plan.open_trials else ()
        prepared = prepare(replace(plan, trials=(*plan.trials, *coming)), store, view.step)
        if evaluation is not None:
            evaluation.ended(_PREPARATION)
        log.info("prepared: %s", [(note.kind, note.name[:12], note.made) for note in prepared.notes])
        undone = [
            prepared.failures[t.model.name, t.sample] for t in coming if (t.model.name, t.sample) in prepared.failures
        ]
        made_of = _Ingredients(config, prepared, provenance, store)
        tasks = _tasks(plan, made_of, view)
        if tasks or (coming and not undone):
            warm = WarmProcesses() if cluster.local else None
            running = _Running(plan, tasks, made_of, view, evaluation, warm, interrupted)
            _tune(running, searcher, cluster, limits, logs)
            undone += running.left()
        if evaluation is not None and not interrupted.is_set():
            evaluation.finish()
            undone += [f"not evaluated: {line}" for line in evaluation.failures]
        return undone


@dataclass(frozen=True)
class _Ingredients:
    """What a trial's task is made of beside the trial."""

    config: SweepConfig
    prepared: Prepared
    provenance: Provenance
    store: str

    def task(self, trial: Trial) -> TrialTask:
        config, ingredients = self.config, self.prepared.ingredients[trial.model.name, trial.sample]
        return TrialTask(
            replace(trial, model=pinned(trial.model)),
            ingredients,
            config.storage,
            config.name,
            self.store,
            config.resources.retries,
            # The evaluation removes what is not to be kept.
            config.resources.keep_models or config.evaluation.asked,
            config.resources.epoch_minutes,
            replace(self.provenance, model=ingredients.model_hash),
            tell_epochs=config.search is not None,
        )


def _tasks(plan: Plan, made_of: _Ingredients, view: LiveView) -> dict[str, TrialTask]:
    """What each waiting trial is told, in order; one that cannot be prepared has failed."""
    tasks: dict[str, TrialTask] = {}
    for trial in plan.waiting:
        reason = made_of.prepared.failures.get((trial.model.name, trial.sample))
        if reason is None:
            tasks[trial.trial_id] = made_of.task(trial)
            continue
        paths = TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)
        write_failure(trial, paths, reason, made_of.provenance)
        view.ended(trial.trial_id, "failed", reason)
    return tasks


@dataclass
class _Running:
    """Who is to hear what happens to the trials."""

    plan: Plan
    tasks: dict[str, TrialTask]
    made_of: _Ingredients
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
        unborn = self.plan.open_trials - sum(trial not in self.plan.trials for trial in self.trials)
        count = len(names) + max(0, unborn)
        names += [f"{unborn} that the search had not chosen yet"] if unborn > 0 else []
        reason = self.budget.used_up()
        if not names or not reason or self.interrupted.is_set():
            return []
        return [f"{reason}: {count} trials were not started: {', '.join(names)}"]

    def new(self, trial: Trial) -> HandedTask:
        """A search has chosen one more."""
        task = self.tasks[trial.trial_id] = self.made_of.task(trial)
        self.trials.append(trial)
        self.view.add(trial)
        config, provenance = self.plan.config, self.made_of.provenance
        everything = [*self.plan.trials, *(t for t in self.trials if t not in self.plan.trials)]
        open_sweep(config.storage, config.name, provenance.config, [spec_of(t) for t in everything], provenance)
        return HandedTask(task)

    def start(self, trial_id: str) -> None:
        self._started.add(trial_id)
        self.budget.started(self.tasks[trial_id].trial)
        self.view.started(trial_id)
        if self.evaluation is not None:
            gang = gang_of(self.tasks[trial_id].trial)
            self.evaluation.waits(trial_id, gang.workers * gang.cpus, gang.workers * gang.gpus)

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
        task = self.tasks[trial_id]
        self.budget.ended(task.trial)
        outcome = outcome_of(self.plan, trial_id)
        if group is not None and (broke or outcome is None):
            from icu_ray.trial.trainer import remove_gang

            remove_gang(group)
        if outcome is None and not self.interrupted.is_set():
            searching = self.plan.config.search is not None
            self._died[trial_id] += broke or not searching
            if (broke or not searching) and self._died[trial_id] <= task.retries:
                log.warning("the process of trial %s died; it goes on from its checkpoint", task.trial.name)
                self._started.discard(trial_id)
                if self.evaluation is not None:
                    self.evaluation.ended(trial_id)
                return True
            outcome = ("failed", "its driver process on the cluster died")
            if searching and not broke:
                outcome = ("not_forgotten", ENDED_EARLY)
                remove(task.paths.checkpoint)
            write_failure(task.trial, task.paths, outcome[1], task.provenance, outcome[0])
        if outcome is not None:
            self.view.ended(trial_id, *outcome)
        if self.evaluation is not None:
            self.evaluation.ended(trial_id)
            self.evaluation.add(task.trial)
        return False


def _searcher(plan: Plan) -> Searcher | None:
    """The searcher of a search, before anything is prepared for it."""
    if plan.config.search is None or not plan.open_trials:
        return None
    from icu_ray.sweep.search import make_searcher

    return make_searcher(plan.config.search, len(plan.trials))


def _tune(running: _Running, searcher: Searcher | None, cluster: Cluster, limits: Limits, logs: Path) -> None:
    from ray import tune

    # Imports Ray, which must not be before `connected` has said how processes know each other.
    from icu_ray.sweep.trial_queue import Gate, StopWhenAsked

    plan = running.plan
    nodes = partial(cluster.nodes, plan.config.resources.node_types)
    told = (nodes, limits, running.start, running.gang, running.end, running.over)
    gate, scheduler = Gate(running.trials, *told), None
    if plan.config.search is not None:
        from icu_ray.sweep import search

        scheduler = search.scheduler(plan.config)
        if searcher is not None:
            gate = search.SearchGate(plan, searcher, running.new, *told)
    function: Any = trainable(running.tasks, worker_environment(cluster.local))
    tuner = tune.Tuner(
        tune.with_resources(function, CONTROL),
        tune_config=tune.TuneConfig(
            search_alg=gate,
            scheduler=scheduler,
            num_samples=-1,
            # A trial that is ended from outside ends with its process; others hand theirs on.
            reuse_actors=scheduler is None,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(logs.resolve()),
            verbose=0,
            stop=StopWhenAsked(running.interrupted.is_set),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
