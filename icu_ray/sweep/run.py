"""A sweep from its plan to its report: the main job.

    code = run_sweep(plan_config(find_config("quickstart")))

Input has been checked by the plan, before Ray starts; then the shared artefacts are made once, the trials run under Ray
Tune in the plan's order, and tables, CSV, JSON and MLflow runs are left. Running the same plan again goes on where it
stopped: finished trials are found in storage, an interrupted one continues from its last epoch. Exit codes: 0 all
trials ended, 1 some failed or Ray is gone, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from icu_ray.cluster.nodes import machine, refuse_impossible
from icu_ray.cluster.runtime import inside_job, will_start_locally
from icu_ray.config import SweepConfig
from icu_ray.console.redirect import redirected_output
from icu_ray.console.terminal import print_words, rich_console, whole
from icu_ray.console.verbosity import teller, verbosity
from icu_ray.errors import ClusterError, UserError, refusal
from icu_ray.plan.grid import Plan, claims_of, make_plan, trials_now
from icu_ray.plan.schedule import Limits
from icu_ray.plan.trial import Trial
from icu_ray.storage.files import join, local_path
from icu_ray.storage.leftovers import remove_leftovers
from icu_ray.storage.provenance import provenance_of
from icu_ray.storage.results import SweepState
from icu_ray.storage.retry import with_retries
from icu_ray.storage.store import Store
from icu_ray.storage.trial_files import open_sweep, write_beat
from icu_ray.sweep.driver import (
    claim,
    heartbeat,
    interruptions,
    logging_to,
    message_if_killed,
    require_main_thread,
    shown,
)
from icu_ray.sweep.lease import Lease

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_KEPT = "What was finished is kept; the same command continues from here."
_KILLED = "The driver was ended at once: killed, or by Ray, which is gone; its last lines are in {log}. {kept}"


def run_sweep(plan: Plan, *, wait: bool = False) -> int:
    """Run what the plan still has to run, and report; the exit code. wait: for another driver of the sweep to end."""
    require_main_thread()
    config = plan.config
    limits = Limits(config.resources.max_workers, config.resources.max_concurrent)
    if will_start_locally():
        # What can be known without Ray is said before it starts. What this machine cannot get, a cluster's may have.
        if plan.unreachable and (plan.waiting or plan.open_trials):
            raise UserError(plan.unreachable)
        refuse_impossible(claims_of(plan, plan.trials), [machine()], limits)
    storage = _absolute(config.storage)
    if inside_job() and storage != config.storage:
        print_words(
            rich_console(sys.stderr),
            f"storage {config.storage} is in the job's own copy of the working folder, which the cluster throws "
            "away; give storage=URL, or the absolute path of a folder that all nodes share, to keep it",
        )
    plan = replace(plan, config=config.model_copy(update={"storage": storage}))
    lease = claim(storage, config.name, wait, teller())
    try:
        # Planned anew: until now another driver may have finished trials.
        return _run(make_plan(plan.config, plan.data), limits, lease)
    except OSError as error:
        if (said := refusal(error)) is None:
            raise
        print_words(rich_console(sys.stderr), f"{said}. {_KEPT}")
        return 1
    finally:
        lease.release()


def _absolute(storage: str) -> str:
    folder = local_path(storage)
    return storage if folder is None else str(folder.resolve())


def _run(plan: Plan, limits: Limits, lease: Lease) -> int:
    from icu_ray.report.numbers.summary import summarise, write_tables
    from icu_ray.report.terminal.summary_tables import print_tables
    from icu_ray.report.tracking.tracker import FINISH_SECONDS, INTERRUPTED_SECONDS, Tracker, tracking_uri
    from icu_ray.trial.task import spec_of

    config = plan.config
    folder = local_path(join(config.storage, config.name))
    logs = (folder if folder is not None else Path(config.name)) / "logs"
    provenance = provenance_of(config, "" if plan.data is None else plan.data.fingerprint)
    specs = [spec_of(trial) for trial in plan.trials]
    described = (config.storage, config.name, provenance.config, specs, provenance, plan.subjects)
    with_retries(lambda: open_sweep(*described), config.name)
    by_epoch = config.evaluation.by_epoch
    with_retries(lambda: remove_leftovers(config.storage, config.name, epochs=by_epoch), "what an earlier run left")
    Store(join(config.storage, "store")).remove_leftovers()
    uri = tracking_uri(config.storage, config.tracking.uri)
    tracker = Tracker(config.storage, config.name, uri) if config.tracking.enabled else None
    state: SweepState = "failed"
    interrupted, taken_over = threading.Event(), threading.Event()
    undone: list[str] = []
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(redirected_output(logs / "driver.log"))
        console = rich_console(terminal)
        stack.enter_context(logging_to(logs / "driver.log", console if verbosity() == "verbose" else None))
        telling = Console(quiet=True) if verbosity() == "quiet" else console
        waiting, done = len(plan.waiting), len(plan.trials) - len(plan.waiting)
        already = f", {done} already done" if done else ""
        chosen = f" and {plan.open_trials} to be chosen by the search" if plan.open_trials else ""
        log_said = whole(shown(logs))
        cancel_message = stack.enter_context(
            message_if_killed(_KILLED.format(log=shown(logs / "driver.log"), kept=_KEPT), terminal)
        )
        trials = f"{waiting} trial{'' if waiting == 1 else 's'} to run"
        print_words(telling, f"{config.name}: {trials}{chosen}{already}; log in {log_said}")
        for remark in () if plan.data is None else plan.data.remarks:
            print_words(telling, remark)

        def lost(why: str) -> None:
            # Nothing is asked of Ray any more, not even to end: such calls may never return.
            with contextlib.suppress(OSError):
                write_beat(config.storage, config.name, "interrupted")
            if tracker is not None:
                tracker.finish(INTERRUPTED_SECONDS)
            lease.release()
            cancel_message()  # not before: Ray's own code may still be quicker
            console.show_cursor()
            console.print()
            print_words(console, f"Ray is gone: {why}. {_KEPT}")
            os._exit(1)

        trouble = ""
        try:
            with (
                interruptions(interrupted, cancel_message),
                heartbeat(config.storage, config.name, lease, taken_over) as tell,
            ):
                if tracker is not None:
                    tracker.start()
                unasked = _unasked(plan)
                if plan.waiting or plan.open_trials or any(unasked.values()):
                    from icu_ray.sweep.trials import run_trials

                    undone = run_trials(plan, unasked, provenance, limits, telling, logs, interrupted, lost, tell)
                if config.evaluation.asked and not interrupted.is_set():
                    from icu_ray.sweep.retrained_measures import add_retrained_measures

                    # Also where nothing was left to run: an interruption may have come between both.
                    add_retrained_measures(plan)
                if config.audit.asked and not config.resources.keep_models and not interrupted.is_set():
                    from icu_ray.sweep.trial_audit import remove_unkept

                    remove_unkept(plan, trials_now(plan))
            state = "interrupted" if interrupted.is_set() else "finished"
        except KeyboardInterrupt:
            state = "interrupted"
        except ClusterError as error:
            state, trouble = "interrupted", str(error)
        finally:
            if interrupted.is_set():  # whatever else went wrong on the way out, such as a terminal that is gone
                state = "interrupted"
            if taken_over.is_set():
                # What storage and MLflow say of the sweep is its new driver's now.
                if tracker is not None:
                    tracker.abandon()
                trouble = "Another driver has taken this sweep over because this one had not been heard from; it stops"
            else:
                summary = summarise(config.storage, config.name, [(t.trial_id, t.name) for t in trials_now(plan)])
                failed = undone or summary.missing or any(r.status == "failed" for r in summary.results)
                if state == "finished" and failed:
                    state = "failed"
                where = _leave(lambda: write_tables(summary), state)
                _leave(lambda: write_beat(config.storage, config.name, state), state)
                reported = ""
                if state != "interrupted":
                    if console.is_terminal:
                        telling.print("writing the report ...")
                    try:
                        reported = _write_report(config)
                    except KeyboardInterrupt:  # who interrupts wants the end now; 'icu-ray report' can be asked later
                        state = "interrupted"
                wait_seconds = INTERRUPTED_SECONDS if state == "interrupted" else FINISH_SECONDS
                synced = tracker is None or tracker.finish(wait_seconds)
        if trouble:
            console.print()
            print_words(console, f"{trouble}. {_KEPT}")
            return 1
        if state == "interrupted":
            console.print(f"\nInterrupted. {_KEPT}")
            return 130
        console.print()
        print_tables(summary, console)
        for line in undone:
            print_words(console, line, "yellow")
        telling.print()
        print_words(telling, f"Tables: {whole(shown(Path(where)))}/trials.csv, cells.csv, summary.json")
        telling.print(reported, markup=False, soft_wrap=True)
        if tracker is not None:
            if not synced:
                said = f"MLflow did not answer ({tracker.trouble}); later: 'icu-ray sync {shown(Path(where))}'"
                print_words(console, said)
            telling.print(f"Compare the runs: {tracker.ui_command}", markup=False, soft_wrap=True)
    return 0 if state == "finished" else 1


def _leave(write: Callable[[], _T], state: SweepState) -> _T:
    """What a sweep leaves at its end waits for a storage that is full or away, but not where the user wants the end."""
    return write() if state == "interrupted" else with_retries(write, "what the sweep leaves")


def _unasked(plan: Plan) -> dict[str, tuple[Trial, ...]]:
    """Trials of earlier runs that still lack an evaluation, and an audit."""
    found: dict[str, tuple[Trial, ...]] = {"evaluation": (), "audit": ()}
    if plan.config.evaluation.asked:
        from icu_ray.sweep.trial_evaluation import outstanding

        found["evaluation"] = outstanding(plan)
    if plan.config.audit.asked:
        from icu_ray.sweep.trial_audit import outstanding_audits

        found["audit"] = outstanding_audits(plan)
    return found


def _write_report(config: SweepConfig) -> str:
    """Write the report and say where it lies; whatever goes wrong with it, the sweep's outcome stays."""
    from icu_ray.report.write import write_report

    try:
        folder = write_report([(config.storage, config.name)]).folder
    except Exception as error:
        log.exception("report of %s", config.name)
        return f"report failed: {error}"
    return f"Report: {folder if local_path(folder) is None else shown(Path(folder))}/report.html"
