"""A sweep from its plan to its report: the main job.

    code = run_sweep(plan_config(find_config("quickstart")))

Input has been checked by the plan, before Ray starts; then the shared artefacts are made once, the trials run under Ray
Tune in the plan's order, and tables, CSV, JSON and MLflow runs are left. Running the same plan again goes on where it
stopped: finished trials are found in storage, an interrupted one continues from its last epoch. Exit codes: 0 all
trials ended, 1 some failed or Ray is gone, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from icu_ray.config import SweepConfig
from icu_ray.errors import ClusterError, UserError, without_secrets
from icu_ray.lease import Held, Lease, take
from icu_ray.nodes import machine, refuse_impossible
from icu_ray.plan import Plan, claims_of, make_plan
from icu_ray.planned_trial import Trial
from icu_ray.results import BEAT_SECONDS, SILENT_SECONDS, Provenance, SweepState
from icu_ray.runtime import inside_job, quiet, will_start_locally
from icu_ray.schedule import Limits
from icu_ray.storage import join, local_path
from icu_ray.trial_files import open_sweep, write_beat
from icu_ray.verbosity import verbosity
from icu_ray.version import code_version

log = logging.getLogger(__name__)
PACKAGES = ("ray", "torch", "transformers", "deepspeed", "sentence-transformers", "faiss-cpu", "bert-score", "mlflow")
WAIT_SECONDS = 2.0
_KEPT = "What was finished is kept; the same command goes on from here."


def console_on(stream: Any) -> Console:
    """A terminal's own width; one line stays one line in a file or pipe."""
    return Console(file=stream, width=None if stream.isatty() else 160, highlight=False)


def run_sweep(plan: Plan, *, wait: bool = False) -> int:
    """Run what the plan still has to run, and report; the exit code. wait: for another driver of the sweep to end."""
    config = plan.config
    limits = Limits(config.resources.max_workers, config.resources.max_concurrent)
    if will_start_locally():
        # What can be known without Ray is said before it starts.
        refuse_impossible(claims_of(plan, plan.trials), [machine()], limits)
    storage = _absolute(config.storage)
    if inside_job() and storage != config.storage:
        console_on(sys.stderr).print(
            f"storage {config.storage} lies in the job's own copy of the working folder, which the cluster throws "
            "away; give storage=URL, or the absolute path of a folder that all nodes share, to keep it",
            markup=False,
            soft_wrap=True,
        )
    plan = replace(plan, config=config.model_copy(update={"storage": storage}))
    lease, waited = _taken(storage, config.name, wait)
    try:
        if waited:
            plan = make_plan(plan.config, plan.data)  # from what the other driver has left
        return _run(plan, limits, lease)
    finally:
        lease.release()


def _taken(storage: str, sweep: str, wait: bool) -> tuple[Lease, bool]:
    """The sweep, and whether it had to be waited for; UserError where it is another driver's."""
    waited = False
    while True:
        try:
            return take(storage, sweep), waited
        except Held as held:
            folder = join(storage, sweep)
            where = without_secrets(folder) if local_path(folder) is None else _shown(Path(folder))
            if not wait:
                raise UserError(
                    f"{where}: another driver ({held}) is running this sweep; watch it: icu-ray status {where} "
                    "--follow; go on when it has ended: --wait; or give this one another name (name=...). A driver on "
                    f"another machine that has not been heard of for {SILENT_SECONDS:.0f} s is taken for dead"
                ) from None
            if not waited:
                console_on(sys.stdout).print(
                    f"waiting for another driver ({held}) of this sweep to end", markup=False, soft_wrap=True
                )
        waited = True
        time.sleep(WAIT_SECONDS)


def _absolute(storage: str) -> str:
    folder = local_path(storage)
    return storage if folder is None else str(folder.resolve())


def provenance_of(config: SweepConfig, data: str) -> Provenance:
    """Which code, packages, config and data made a result."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    code = code_version()
    return Provenance(
        version=str(code["version"]),
        commit=str(code["commit"]),
        dirty=bool(code["dirty"]),
        data=data,
        packages=versions,
        config=_without_secrets(config.model_dump(mode="json")),
    )


def _without_secrets(tree: Any) -> Any:
    """The same plain tree, its addresses (storage, tracking, ...) as they may be shown."""
    if isinstance(tree, dict):
        return {key: _without_secrets(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_secrets(value) for value in tree]
    return without_secrets(tree) if isinstance(tree, str) and "://" in tree else tree


def _run(plan: Plan, limits: Limits, lease: Lease) -> int:
    from icu_ray.report.tables import print_tables, summarise, write_tables
    from icu_ray.tracking import FINISH_SECONDS, INTERRUPTED_SECONDS, Tracker, tracking_uri
    from icu_ray.trial_task import spec_of

    config = plan.config
    folder = local_path(join(config.storage, config.name))
    logs = (folder if folder is not None else Path(config.name)) / "logs"
    provenance = provenance_of(config, "" if plan.data is None else plan.data.fingerprint)
    open_sweep(config.storage, config.name, provenance.config, [spec_of(t) for t in plan.trials], provenance)
    uri = tracking_uri(config.storage, config.tracking.uri)
    tracker = Tracker(config.storage, config.name, uri) if config.tracking.enabled else None
    state: SweepState = "failed"
    interrupted = threading.Event()
    undone: list[str] = []
    with quiet(logs / "driver.log") as terminal:
        console = console_on(terminal)
        telling = Console(quiet=True) if verbosity() == "quiet" else console
        _log_to_file(console if verbosity() == "verbose" else None)
        waiting, done = len(plan.waiting), len(plan.trials) - len(plan.waiting)
        already = f", {done} already done" if done else ""
        chosen = f" and {plan.open_trials} to be chosen by the search" if plan.open_trials else ""
        log_said = escape(_shown(logs))
        telling.print(f"[bold]{config.name}[/bold]: {waiting} trials to run{chosen}{already}; log in {log_said}")

        def lost(why: str) -> None:
            # Nothing is asked of Ray any more, not even to end: such calls may never return.
            with contextlib.suppress(OSError):
                write_beat(config.storage, config.name, "interrupted")
            if tracker is not None:
                tracker.finish(INTERRUPTED_SECONDS)
            lease.release()
            console.show_cursor()
            console.print(f"\nRay is gone: {why}. {_KEPT}", markup=False, soft_wrap=True)
            os._exit(1)

        trouble = ""
        try:
            with _signals(interrupted), _beating(config, lease, console):
                if tracker is not None:
                    tracker.start()
                unevaluated = _unevaluated(plan)
                if plan.waiting or plan.open_trials or unevaluated:
                    from icu_ray.running import run_trials

                    undone = run_trials(plan, unevaluated, provenance, limits, telling, logs, interrupted, lost)
            state = "interrupted" if interrupted.is_set() else "finished"
        except KeyboardInterrupt:
            state = "interrupted"
        except ClusterError as error:
            state, trouble = "interrupted", str(error)
        finally:
            trials = make_plan(config, plan.data).trials if config.search is not None else plan.trials
            summary = summarise(config.storage, config.name, [(t.trial_id, t.name) for t in trials])
            failed = undone or summary.missing or any(r.status == "failed" for r in summary.results)
            if state == "finished" and failed:
                state = "failed"
            where = write_tables(summary)
            write_beat(config.storage, config.name, state)
            # Who interrupts wants the end now; 'icu-ray report' can be asked later.
            reported = "" if state == "interrupted" else _write_report(config)
            patience = INTERRUPTED_SECONDS if state == "interrupted" else FINISH_SECONDS
            synced = tracker is None or tracker.finish(patience)
        if trouble:
            console.print(f"\n{trouble}. {_KEPT}", markup=False, soft_wrap=True)
            return 1
        if state == "interrupted":
            console.print(f"\nInterrupted. {_KEPT}")
            return 130
        console.print()
        print_tables(summary, console)
        for line in undone:
            console.print(line, style="yellow", markup=False)
        telling.print(f"\nTables: {_shown(Path(where))}/trials.csv, cells.csv, summary.json", markup=False)
        telling.print(reported, markup=False, soft_wrap=True)
        if tracker is not None:
            if not synced:
                said = f"MLflow did not answer ({tracker.trouble}); later: icu-ray sync {_shown(Path(where))}"
                console.print(said, markup=False, soft_wrap=True)
            telling.print(f"Compare the runs: {tracker.ui_command}", markup=False, soft_wrap=True)
    return 0 if state == "finished" else 1


def _log_to_file(console: Console | None) -> None:
    """Logs go where this process's standard error goes, the driver's log; and to a console, when asked for."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True)
    if console is not None:
        from rich.logging import RichHandler

        handler = RichHandler(console=console, show_path=False, markup=False)
        handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
        logging.getLogger().addHandler(handler)


def _unevaluated(plan: Plan) -> tuple[Trial, ...]:
    """Trials of earlier runs that still lack an evaluation."""
    if not plan.config.evaluation.asked:
        return ()
    from icu_ray.sweep_evaluation import outstanding

    return outstanding(plan)


def _write_report(config: SweepConfig) -> str:
    """Write the report and say where it lies; whatever goes wrong with it, the sweep's outcome stays."""
    from icu_ray.report.write import write_report

    try:
        folder = write_report([(config.storage, config.name)]).folder
    except Exception as error:
        log.exception("report of %s", config.name)
        return f"report failed: {error}"
    return f"Report: {folder if local_path(folder) is None else _shown(Path(folder))}/report.html"


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


@contextlib.contextmanager
def _signals(interrupted: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the sweep cleanly; a second one at once."""

    def stop(number: int, frame: Any) -> None:
        if interrupted.is_set():
            os._exit(130)
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _beating(config: SweepConfig, lease: Lease, console: Console) -> Iterator[None]:
    """Say every while that this driver lives; one that has lost its sweep to another stops."""
    stop = threading.Event()

    def beat() -> None:
        while True:
            try:
                with contextlib.suppress(OSError):
                    lease.renew()
                    write_beat(config.storage, config.name, "running")
            except Held as held:
                said = f"another driver ({held}) has taken this sweep over, for this one was not heard of; it stops"
                console.print(said, markup=False, soft_wrap=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if stop.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)
