"""The waiting trials of a plan on a cluster: preparation, then Tune with a queue, with the evaluation beside them.

undone = run_trials(plan, unasked, provenance, limits, console, logs, interrupted, on_loss)

Every trial that ends, well or not, leaves its result in storage; what is returned says what was left undone: trials
that the budget did not allow, and evaluations that could not be made.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.console import Console

from icu_ray.cluster.environment import worker_environment
from icu_ray.cluster.head_watch import watched_head
from icu_ray.cluster.nodes import refuse_impossible
from icu_ray.cluster.runtime import CONTROL, Cluster, connected, will_start_locally
from icu_ray.config import SweepConfig
from icu_ray.console.progress import Step
from icu_ray.errors import is_secret_name
from icu_ray.plan.grid import Plan, claims_of, coming_trial
from icu_ray.plan.schedule import Limits
from icu_ray.plan.trial import Trial, searches_audited
from icu_ray.report.terminal.live import LiveView
from icu_ray.storage.files import join
from icu_ray.storage.results import EpochRecord, Provenance
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.sweep.prepare import prepare
from icu_ray.sweep.prepared import Prepared
from icu_ray.sweep.running_trials import RunningTrials
from icu_ray.sweep.trial_durations import TrialDurations
from icu_ray.training.preloading import PRELOAD
from icu_ray.trial.artefacts import pinned
from icu_ray.trial.task import TrialTask, write_failure
from icu_ray.trial.trainable import trainable

if TYPE_CHECKING:
    from ray.tune.search import Searcher

    from icu_ray.sweep.beside import BesideTrials

log = logging.getLogger(__name__)
_PREPARATION = "preparation"
Unasked: TypeAlias = Mapping[str, Sequence[Trial]]
"""Trials of earlier runs that lack an evaluation, or an audit, by what it is called."""


def run_trials(
    plan: Plan,
    unasked: Unasked,
    provenance: Provenance,
    limits: Limits,
    console: Console,
    logs: Path,
    interrupted: threading.Event,
    on_loss: Callable[[str], None],
    tell: Callable[[Step], None],
) -> list[str]:
    """Run what waits, evaluate and audit what asks for it, `unasked` trials of earlier runs too.

    This function and `_tune` wire the components, none of which knows the others:

    LiveView            shows steps and trials on the terminal; PrometheusMetrics are set whenever it looks
    prepare             makes what the trials share, telling its steps
    SweepEvaluation     evaluates the models of trials that ended, on what the others leave free
    SweepAudit          attacks them, there too
    TrialQueue          offers Tune the next trial that fits; SearchQueue asks a searcher what it should be
    TrialDurations      learns from the trials how long the others take: for the queue's order and the time left
    RunningTrials       hears from the queue (TrialEvents) and tells view, durations, evaluation and the budget
    trainable           what Tune runs for each trial

    on_loss: told, in a thread of its own, why Ray is gone, when it is; must end the process. tell: told every step of
    the shared work, for those who look from elsewhere.
    """
    config = plan.config
    store = join(config.storage, "store")
    with contextlib.ExitStack() as stack:
        tell(Step("Ray", None, "starting"))
        local = will_start_locally()
        console.print("starting Ray on this machine ..." if local else "connecting to the Ray cluster ...", style="dim")
        cluster = stack.enter_context(connected(keep_logs=logs / "ray", preload=PRELOAD))
        tell(Step("Ray", 1, "started"))
        stack.enter_context(watched_head(on_loss))
        refuse_impossible(claims_of(plan, plan.waiting), cluster.nodes(config.resources.node_types), limits)
        searcher = _searcher(plan)
        # It imports Ray, which must not be before `connected` has said how processes know each other.
        from icu_ray.sweep.prometheus_metrics import PrometheusMetrics

        durations, metrics = TrialDurations(plan), PrometheusMetrics(plan)

        def on_look(states: Mapping[str, int], histories: Mapping[str, tuple[EpochRecord, ...]]) -> None:
            durations.observe(histories)
            metrics.observe(states, histories)

        view = stack.enter_context(LiveView(plan, console, on_look, durations.left))

        def on_step(step: Step) -> None:
            view.step(step)
            tell(step)

        beside = _beside(plan, store, on_step)
        for each in beside:
            stack.enter_context(each.running())
            # The preparation comes first: nothing is asked before it is done.
            each.waits(_PREPARATION, 0, 0)
            for trial in unasked[each.step]:
                each.add(trial)
        # A search's trials are not known yet, but what they will need is.
        coming = (coming_trial(plan),) if plan.open_trials else ()
        prepared = prepare(replace(plan, trials=(*plan.trials, *coming)), store, on_step)
        for each in beside:
            each.ended(_PREPARATION)
        said = [f"{each.kind} {each.name[:12]} {'made' if each.made else 'reused'}" for each in prepared.records]
        log.info("prepared: %s", ", ".join(said))
        undone = [reason for trial in coming if (reason := prepared.failure(trial)) is not None]
        task_of = partial(_task, config, prepared, provenance, store)
        tasks = {trial.trial_id: task_of(trial) for trial in _preparable(plan, prepared, provenance, view, durations)}
        if tasks or (coming and not undone):
            running = RunningTrials(plan, tasks, task_of, provenance, view, durations, beside, interrupted)
            _tune(running, searcher, cluster, limits, logs)
            undone += running.left()
        for each in beside:
            if not interrupted.is_set():
                each.finish()
                undone += [f"not {each.participle}: {line}" for line in each.failures]
        return undone


def _beside(plan: Plan, store: str, on_step: Callable[[Step], None]) -> list[BesideTrials]:
    """What asks the models of trials that ended: first the evaluation, and the audit last, which removes models that
    are not to be kept."""
    found: list[BesideTrials] = []
    if plan.config.evaluation.asked:
        from icu_ray.sweep.evaluation import SweepEvaluation

        found.append(SweepEvaluation(plan, store, on_step))
    if plan.config.audit.asked:
        from icu_ray.sweep.audit import SweepAudit

        found.append(SweepAudit(plan, store, on_step))
    return found


def _searcher(plan: Plan) -> Searcher | None:
    """The searcher of a search, before anything is prepared for it."""
    if plan.config.search is None or not plan.open_trials:
        return None
    from icu_ray.sweep.search import make_searcher

    return make_searcher(plan.config.search, len(plan.trials))


def _preparable(
    plan: Plan, prepared: Prepared, provenance: Provenance, view: LiveView, durations: TrialDurations
) -> list[Trial]:
    """The waiting trials, in order, but those for which something could not be prepared: these have failed."""
    found = []
    for trial in plan.waiting:
        reason = prepared.failure(trial)
        if reason is None:
            found.append(trial)
            continue
        paths = TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id)
        write_failure(trial, paths, reason, provenance)
        view.ended(trial.trial_id, "failed", reason)
        durations.ended(trial.trial_id)
    return found


def _task(config: SweepConfig, prepared: Prepared, provenance: Provenance, store: str, trial: Trial) -> TrialTask:
    """All that a trial is told."""
    artefacts = prepared.keys(trial)
    return TrialTask(
        replace(trial, model=pinned(trial.model)),
        artefacts,
        config.storage,
        config.name,
        store,
        config.resources.retries,
        # The evaluation, or the audit, removes what is not to be kept.
        config.resources.keep_models or config.evaluation.asked or config.audit.asked,
        config.resources.epoch_minutes,
        replace(provenance, model=artefacts.model_hash),
        tell_epochs=config.search is not None,
        audited=searches_audited(config),
        keep_epochs=config.evaluation.by_epoch,
    )


def _tune(running: RunningTrials, searcher: Searcher | None, cluster: Cluster, limits: Limits, logs: Path) -> None:
    """Have Ray Tune run the trials until the queue has none left."""
    from ray import tune

    from icu_ray.sweep.trial_queue import StopWhenAsked, TrialQueue

    plan = running.plan
    nodes = partial(cluster.nodes, plan.config.resources.node_types)
    queue, scheduler = TrialQueue(running.trials, nodes, limits, running), None
    if plan.config.search is not None:
        from icu_ray.sweep import search

        scheduler = search.scheduler(plan.config)
        if searcher is not None:
            queue = search.SearchQueue(plan, searcher, nodes, limits, running)
    _propagate_no_secrets()
    function: Any = trainable(running.tasks, worker_environment(cluster.local))
    tuner = tune.Tuner(
        tune.with_resources(function, CONTROL),
        tune_config=tune.TuneConfig(
            search_alg=queue,
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


def _propagate_no_secrets() -> None:
    """Tune copies keys of AWS from this process's environment into what Ray keeps and logs of each trial. The
    nodes have theirs: on this machine they inherit them, and a cluster's are given to it."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE = {n for n in class_cache.ENV_VARS_TO_PROPAGATE if not is_secret_name(n)}
