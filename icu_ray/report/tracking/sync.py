"""Sending to MLflow what a sweep's storage holds and the server does not have; sending twice changes nothing.

    sent = sync_sweep("runs", "quickstart", tracking_uri("runs"))

This file decides what is missing and in which order it goes; runs.py finds or makes the runs, metrics.py says which
numbers a record is, artifacts.py sends files. One parent run for the sweep, one child run for each trial.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.artifacts import send_evaluation, send_report, send_samples, send_tables
from icu_ray.report.tracking.metrics import (
    EPOCH_METRIC,
    MetricBatch,
    epoch_batches,
    evaluated_batches,
    result_batches,
    sweep_batch,
)
from icu_ray.report.tracking.runs import (
    STORAGE_TAG,
    describe_experiment,
    find_or_make_child,
    find_or_make_experiment,
    find_or_make_parent,
    milliseconds,
    parent_note,
    set_note,
    storage_told,
)
from icu_ray.report.tracking.views import trial_colors, trial_note
from icu_ray.storage.audit_files import read_audit
from icu_ray.storage.audits import TrialAudit
from icu_ray.storage.el_names import plain
from icu_ray.storage.epoch_evaluations import EpochEvaluation, by_epoch
from icu_ray.storage.epoch_files import read_epoch_evaluations
from icu_ray.storage.files import join, list_dir, read_bytes
from icu_ray.storage.results import EpochRecord, SampleRecord, Sweep, TrialEvaluation, TrialResult, to_json
from icu_ray.storage.trial_files import (
    TrialPaths,
    read_beat,
    read_evaluation,
    read_events,
    read_result,
    read_samples,
    read_spec,
    read_sweep,
    trial_ids,
)
from icu_ray.storage.verdict import verdict_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COMPLETE_TAG = "icu_ray.complete"
"""Which result (`_result_digest`) is wholly on the server."""

STATUS = {"finished": "FINISHED", "not_forgotten": "FINISHED", "failed": "FAILED"}


@dataclass
class SyncState:
    """What a running sweep keeps from one sync to the next: what is known to be on the server, so as not to ask again.

    runs, epochs, evaluated, complete, colors: by trial id. evaluated: the evaluation's metrics by epoch. colors is not
    of the server: it follows from the planned trials, and a run is given its own when it is made.
    """

    parent: str | None = None
    experiment: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    evaluated: dict[str, Mapping[int, Mapping[str, float | None]]] = field(default_factory=dict)
    complete: dict[str, str] = field(default_factory=dict)
    colors: dict[str, str] = field(default_factory=dict)


def sync_sweep(storage: str, sweep: str, uri: str, *, state: SyncState | None = None, over: bool = False) -> int:
    """Send everything that is missing; the number of metric values sent. over: no trial runs any more.

    Raises whatever MLflow raises when the server cannot be reached; what was sent by then stays.
    """
    state = state or SyncState()
    with quiet():
        client = open_client(uri)
        known = read_sweep(storage, sweep)
        parent = _parent(client, storage, sweep, known, uri, state)
        sent = 0
        results = []
        state.colors = {} if known is None else trial_colors(known)
        planned = None if known is None else {spec.trial_id for spec in known.trials}
        for trial_id in trial_ids(storage, sweep):
            paths = TrialPaths.of(storage, sweep, trial_id)
            result = read_result(paths)
            later = Later(read_evaluation(paths), read_audit(paths), read_epoch_evaluations(paths))
            if planned is None or trial_id in planned:  # others are left of an earlier config
                results.append(result)
            if result is None or state.complete.get(trial_id) != _result_digest(result, later):
                sent += _sync_trial(client, parent, paths, trial_id, result, later, state, over)
        _sync_parent(client, parent, storage, sweep, known, results, over)
    return sent


@dataclass(frozen=True)
class Later:
    """What a trial's models were asked after it had ended, and those of its epochs."""

    evaluation: TrialEvaluation | None
    audit: TrialAudit | None
    epochs: tuple[EpochEvaluation, ...] = ()

    def by_epoch(self, result: TrialResult | None) -> dict[int, Mapping[str, float | None]]:
        """What the evaluation measured by epoch."""
        return by_epoch(self.evaluation, self.epochs, None if result is None else result.kept_epoch or result.epochs)


def _result_digest(result: TrialResult, later: Later) -> str:
    """Tells one outcome of a trial from another: it may be run again, and is evaluated after it has ended."""
    rest, evaluation = b"", later.evaluation
    if evaluation is not None:
        named = asdict(evaluation)
        if not evaluation.documents:
            del named["documents"]  # an earlier version, which may have sent the trial, had no such key
        rest = to_json(named)
    if later.audit is not None:
        rest += to_json(asdict(later.audit))
    rest += b"".join(to_json(asdict(each)) for each in later.epochs)
    return hashlib.sha256(to_json(plain(result)) + rest).hexdigest()[:16]


def open_client(uri: str) -> MlflowClient:
    """MLflow at an address; UserError where an SQLite file is none."""
    _refuse_no_database(uri)
    # A request that was not answered may have been carried out all the same. MLflow would send it again as it is, and
    # make a second run; the next sync looks first.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # Else every run that ends prints two lines into the sweep's terminal where the address is a server's.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _refuse_no_database(uri: str) -> None:
    """UserError where an SQLite file is none: MLflow would try to open it for minutes."""
    scheme, _, rest = uri.partition(":///")
    path = Path(rest.partition("?")[0])
    if not scheme.startswith("sqlite") or not os.path.lexists(path):
        return
    found = "a folder" if path.is_dir() else None if path.resolve().parent.is_dir() else "a link to nothing"
    if found is None and path.is_file():
        with path.open("rb") as file:
            found = None if file.read(16) in (b"", b"SQLite format 3\0") else "no SQLite database"
    if found is not None:
        raise UserError(
            f"MLflow at {uri}: {path} is {found}, expected the file of a database (or a name for a new one)"
        )


def _parent(client: MlflowClient, storage: str, sweep: str, known: Sweep | None, uri: str, state: SyncState) -> Run:
    """The sweep's run; the first time in a process it is found or made, and gets the config."""
    if state.parent is not None:
        return client.get_run(state.parent)
    name = (None if known is None else known.tracking("experiment")) or sweep
    state.experiment = find_or_make_experiment(client, name, storage, uri)
    describe_experiment(client, state.experiment, known)
    run = find_or_make_parent(client, state.experiment, storage, sweep, known)
    told = storage_told(storage)
    if run.data.tags.get(STORAGE_TAG) != told:  # a folder that was moved, or a run of an earlier version
        client.set_tag(run.info.run_id, STORAGE_TAG, told)
    if known is not None and known.config:
        client.log_dict(run.info.run_id, dict(known.config), "config.yaml")
    state.parent = run.info.run_id
    return run


def _sync_trial(
    client: MlflowClient,
    parent: Run,
    paths: TrialPaths,
    trial_id: str,
    result: TrialResult | None,
    later: Later,
    state: SyncState,
    over: bool,
) -> int:
    spec = read_spec(paths)
    if spec is None:
        return 0
    history = read_events(paths, spec)
    known, points, sent_points = state.epochs.get(trial_id), later.by_epoch(result), state.evaluated.get(trial_id, {})
    new = {epoch: metrics for epoch, metrics in points.items() if sent_points.get(epoch) != metrics}
    if result is None and known is not None and known == len(history) and not new and not over:
        return 0
    run_id = state.runs.get(trial_id) or find_or_make_child(client, parent, spec, state.colors.get(trial_id))
    state.runs[trial_id] = run_id
    run = client.get_run(run_id)
    if result is not None and run.data.tags.get(COMPLETE_TAG) == _result_digest(result, later):
        state.complete[trial_id] = _result_digest(result, later)
        return 0
    sent = _send_epochs(client, run_id, history, spec.started or 0.0)
    state.epochs[trial_id] = len(history)
    batches = evaluated_batches(new, history, spec.started or 0.0)
    sent += sum(send_metrics(client, run_id, batch) for batch in batches)
    state.evaluated[trial_id] = points
    if result is not None:
        samples = read_samples(paths, spec)
        sent += _send_result(client, run, paths, result, samples, later)
        verdict = verdict_of(result, samples, later.evaluation, later.audit)
        if verdict is not None:
            client.set_tag(run_id, "verdict", verdict.outcome)
        set_note(client, run, trial_note(spec, result, verdict))
        state.complete[trial_id] = _result_digest(result, later)
    elif over and run.info.status == "RUNNING":
        client.set_terminated(run_id, "KILLED")
    elif not over and run.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    return sent


def _send_epochs(client: MlflowClient, run_id: str, history: tuple[EpochRecord, ...], started: float) -> int:
    """Those that are not there."""
    there = {metric.step for metric in client.get_metric_history(run_id, EPOCH_METRIC)} if history else set()
    return sum(send_metrics(client, run_id, batch) for batch in epoch_batches(history, started, there))


def _send_result(
    client: MlflowClient,
    run: Run,
    paths: TrialPaths,
    result: TrialResult,
    samples: tuple[SampleRecord, ...],
    later: Later,
) -> int:
    run_id, there, evaluation = run.info.run_id, run.data.metrics, later.evaluation
    batches = result_batches(result, evaluation, later.audit)
    sent = sum(send_metrics(client, run_id, batch.without(there)) for batch in batches)
    send_samples(client, run_id, samples)
    whole = evaluation is None or send_evaluation(client, run_id, paths.documents, evaluation)
    if later.audit is not None:
        client.log_dict(run_id, asdict(later.audit), "audit.json")
        client.set_tag(run_id, "audit", later.audit.after.said()[:5000])
    client.set_tag(run_id, "status", result.status)
    client.set_tag(run_id, "reason", result.reason[:5000])
    if list_dir(paths.model):
        client.set_tag(run_id, "model_path", without_secrets(paths.model))
    client.set_terminated(run_id, STATUS[result.status], end_time=milliseconds(result.ended))
    if whole:  # else a later sync, of another process, sends it again
        client.set_tag(run_id, COMPLETE_TAG, _result_digest(result, later))
    return sent


def send_metrics(client: MlflowClient, run_id: str, batch: MetricBatch) -> int:
    """Send a batch in one request, none where it is empty; how many values."""
    from mlflow.entities import Metric

    if batch.values:
        at = int((time.time() if batch.seconds is None else batch.seconds) * 1000)
        metrics = [Metric(name, value, at, batch.step) for name, value in batch.values.items()]
        client.log_batch(run_id, metrics=metrics)
    return len(batch.values)


def _sync_parent(
    client: MlflowClient,
    parent: Run,
    storage: str,
    sweep: str,
    known: Sweep | None,
    results: list[TrialResult | None],
    over: bool,
) -> None:
    """How many trials ended how; once the sweep is over its tables, description, report and end as well."""
    run_id = parent.info.run_id
    counts = sweep_batch(results)
    if counts.without(parent.data.metrics).values:
        send_metrics(client, run_id, counts)
    if over:
        folder = join(storage, sweep)
        send_tables(client, run_id, folder)
        set_note(client, parent, parent_note(storage, sweep, parent, known, read_bytes(join(folder, "cells.csv"))))
        send_report(client, run_id, join(folder, "report"))
        failed = any(result is None or result.status == "failed" for result in results)
        beat = read_beat(storage, sweep)  # sent later, the run still ends when its driver did
        ended = None if beat is None or beat.state == "running" else milliseconds(beat.time)
        client.set_terminated(run_id, "FAILED" if failed else "FINISHED", end_time=ended)
    elif parent.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, MLflow and its database migrations log errors only.

    A first contact with an SQLite file logs dozens of migrations, which would hide in a terminal what the user asked
    for. The levels are put back, as a user of the library may have set them.
    """
    names = ("mlflow", "alembic", "mlflow.store.db.utils")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
