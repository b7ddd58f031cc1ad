"""One trial on the cluster: Tune's trainable, and the Ray Train worker group in it.

The trainable writes spec.json, runs a group of workers and survives whatever happens to them: a lost worker or node is
replaced and goes on from the last checkpoint (`resources.retries` times), everything else becomes result.json with
status 'failed' and the reason. What runs on the workers, and what they write, is told in trial/worker.py.

A run is found again by its folder, trials/<trial id>/checkpoint: the same trial started by another driver, on another
cluster, continues there.

    tuner = Tuner(trainable(tasks), ...)        # config: {"trial_id": ...}
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError
from icu_ray.plan.search_objective import OBJECTIVE, objective_of, with_came_back
from icu_ray.plan.thresholds import thresholds_of
from icu_ray.storage.files import read_bytes, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.results import EpochRecord, Scores
from icu_ray.storage.trial_files import TrialPaths, read_events, read_result, start_trial
from icu_ray.training.refinement import below_thresholds, holds
from icu_ray.trial.checkpoints import drop_broken_snapshot, sign_of_progress
from icu_ray.trial.task import TrialTask, spec_of, write_failure
from icu_ray.trial.watchdog import Watchdog, looking
from icu_ray.trial.worker import train_worker

if TYPE_CHECKING:
    from icu_ray.trial.trainer import OnWorkersStarted

log = logging.getLogger(__name__)


class HandedTask:
    """A task in a trial's config, whose values Tune writes into names: short to read."""

    def __init__(self, task: TrialTask) -> None:
        self.task = task

    def __repr__(self) -> str:
        return self.task.trial.name


def trainable(tasks: Mapping[str, TrialTask], environment: Mapping[str, str]) -> Callable[[dict[str, Any]], None]:
    """The function that Tune runs for each trial; it reports where its workers stand whenever they (re)start.

    A trial that was not known when the function was made brings its task along (HandedTask).
    """

    def trial(config: dict[str, Any]) -> None:
        from ray import tune

        # Ray Train takes its settings from the process that runs its controller, which is this one.
        os.environ.update(environment)
        task = config["task"].task if "task" in config else tasks[config["trial_id"]]
        where: dict[str, Any] = {}

        def on_workers_started(nodes: Sequence[str], placement_group: str) -> None:
            where.update(nodes=list(nodes), placement_group=placement_group)
            tune.report(dict(where))

        def on_epoch(record: EpochRecord, before: Scores) -> None:
            value = objective_of(record.scores, before, task.trial.settings.stop)
            if task.audited:
                value = with_came_back(value, record.came_back)
            if value is not None:
                tune.report({**where, "epoch": record.epoch, OBJECTIVE: value})

        def ends(record: EpochRecord, before: Scores) -> bool:
            settings = task.trial.settings
            limits = thresholds_of(settings.stop, before)
            forgotten = below_thresholds(record.scores, limits) and holds(record.came_back, settings.stop)
            return record.epoch >= settings.max_epochs or forgotten

        with _watching_epochs(task.paths, on_epoch, ends) if task.tell_epochs else contextlib.nullcontext():
            run(task, on_workers_started, config["node"])

    return trial


def run(task: TrialTask, on_workers_started: OnWorkersStarted, node: str | None = None) -> None:
    """A trial from its worker group, which starts on `node`, to its result, failed or not."""
    from icu_ray.trial.trainer import fit, free_placement_group, reason_of

    paths = task.paths
    if read_bytes(paths.result) is not None:  # it has failed before: whatever it ran short of may be there now
        remove(paths.micro_batch)
    for stale in (paths.result, paths.evaluation, paths.documents, paths.error):
        remove(stale)
    start_trial(paths, spec_of(task.trial, task.provenance))
    drop_broken_snapshot(paths)
    watchdog = Watchdog(lambda: sign_of_progress(paths), task.epoch_minutes, free_placement_group)

    def started(nodes: Sequence[str], placement_group: str) -> None:
        watchdog.started(placement_group)
        on_workers_started(nodes, placement_group)

    told = {"task": task, "started": time.time()}
    how: dict[str, Any] = {"retries": task.retries, "on_workers_started": started, "node": node}
    try:
        with watchdog:
            fit(train_worker, told, task.trial.model, paths.root, **how)
    except Exception as error:
        log.exception("trial %s", task.trial.name)
        write_atomic(paths.error, traceback.format_exc().encode())
        reason = reason_of(error)
        if watchdog.hung:
            times = f"{watchdog.ended} times " if watchdog.ended > 1 else ""
            reason = f"hung: {times}no epoch ended within resources.epoch_minutes={task.epoch_minutes:g} ({reason})"
        if read_result(paths) is None:  # whoever ended it from outside has said why
            write_failure(task.trial, paths, reason, task.provenance)
    else:
        remove(paths.checkpoint)


@contextlib.contextmanager
def _watching_epochs(
    paths: TrialPaths, on_epoch: Callable[[EpochRecord, Scores], None], ends: Callable[[EpochRecord, Scores], bool]
) -> Iterator[None]:
    """Call `on_epoch` with each epoch after the first as it is written, from a thread of its own.

    ends: whether the trial ends with an epoch. That one is not told: nobody is to stop what is leaving its result.
    """
    last = 0

    def look() -> None:
        nonlocal last
        try:
            history = read_events(paths)
        except (UserError, OSError):
            return  # storage is away for a moment
        for record in history[1:]:
            if record.epoch > last and not ends(record, history[0].scores):
                last = record.epoch
                on_epoch(record, history[0].scores)

    with looking(look, "epochs"):
        yield
