"""Sending to MLflow what a sweep's storage holds and the server does not have; sending twice changes nothing.

    sent = sync_sweep("runs", "quickstart", tracking_uri("runs"))

One parent run for the sweep, one child run for each trial, found again by tags.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.errors import without_secrets
from icu_ray.storage.files import join, list_dir, local_path, read_bytes
from icu_ray.storage.results import EpochRecord, Provenance, Sweep, TrialEvaluation, TrialResult, TrialSpec, to_json
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
from icu_ray.tracking.views import (
    COLOR_TAG,
    NOTE_TAG,
    SIGNATURE,
    TRIAL_TAG,
    experiment_tags,
    sweep_note,
    trial_colors,
    trial_note,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP_TAG = "icu_ray.sweep"
SWEEP_ID_TAG = "icu_ray.sweep_id"
COMPLETE_TAG = "icu_ray.complete"
"""Which result (`_mark`) is wholly on the server."""

PARENT_TAG = "mlflow.parentRunId"
STATUS = {"finished": "FINISHED", "not_forgotten": "FINISHED", "failed": "FAILED"}


@dataclass
class SyncState:
    """What a running sweep keeps from one sync to the next: what is known to be on the server, so as not to ask again.

    runs, epochs, complete, colors: by trial id. colors is not of the server: it follows from the planned trials, and a
    run is given its own when it is made.
    """

    parent: str | None = None
    experiment: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    complete: dict[str, str] = field(default_factory=dict)
    colors: dict[str, str] = field(default_factory=dict)


def sync_sweep(storage: str, sweep: str, uri: str, *, state: SyncState | None = None, over: bool = False) -> int:
    """Send everything that is missing; the number of metric values sent. over: no trial runs any more.

    Raises whatever MLflow raises when the server cannot be reached; what was sent by then stays.
    """
    state = state or SyncState()
    with _quiet():
        client = _client(uri)
        known = read_sweep(storage, sweep)
        parent = _parent(client, storage, sweep, known, uri, state)
        sent = 0
        results = []
        state.colors = {} if known is None else trial_colors(known)
        planned = None if known is None else {spec.trial_id for spec in known.trials}
        for trial_id in trial_ids(storage, sweep):
            paths = TrialPaths.of(storage, sweep, trial_id)
            result, evaluation = read_result(paths), read_evaluation(paths)
            if planned is None or trial_id in planned:  # others are left of an earlier config
                results.append(result)
            if result is None or state.complete.get(trial_id) != _mark(result, evaluation):
                sent += _sync_trial(client, parent, paths, trial_id, result, evaluation, state, over)
        _finish_parent(client, parent, storage, sweep, known, results, over)
    return sent


def _mark(result: TrialResult, evaluation: TrialEvaluation | None) -> str:
    """Tells one outcome of a trial from another: it may be run again, and is evaluated after it has ended."""
    rest = b"" if evaluation is None else to_json(asdict(evaluation))
    return hashlib.sha256(to_json(asdict(result)) + rest).hexdigest()[:16]


def _client(uri: str) -> MlflowClient:
    # A request that was not answered may have been carried out all the same. MLflow would send it again as it is, and
    # make a second run; the next sync looks first.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # Else every run that ends prints two lines into the sweep's terminal where the address is a server's.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: MlflowClient, name: str, storage: str, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    folder = local_path(storage)
    location = None
    if uri.startswith("sqlite:") and folder is not None:
        location = (folder.resolve() / "mlflow_artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _describe_experiment(client: MlflowClient, experiment: str) -> None:
    """Its description and saved views, where it lacks them: what someone has written there stays."""
    there = client.get_experiment(experiment)
    for key, value in experiment_tags(experiment, there.creation_time or 0).items():
        if key not in there.tags:
            client.set_experiment_tag(experiment, key, value)


def _note(client: MlflowClient, run: Run, text: str) -> None:
    """The description of a run, unless someone has taken it over."""
    there = run.data.tags.get(NOTE_TAG)
    if there != text and (there is None or SIGNATURE in there):
        client.set_tag(run.info.run_id, NOTE_TAG, text)


def _folder(storage: str, sweep: str) -> str:
    return without_secrets(join(storage, sweep))


def _artifacts(run: Run) -> str:
    """Address of a run's artefacts, within the server's page."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts"


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(1000 * seconds)


def _parent(client: MlflowClient, storage: str, sweep: str, spec: Sweep | None, uri: str, state: SyncState) -> Run:
    """The sweep's run, found by the id of its folder: another storage may hold a sweep of the same name."""
    if state.parent is not None:
        return client.get_run(state.parent)
    config: Mapping[str, Any] = {} if spec is None else spec.config
    name = (None if spec is None else spec.tracking("experiment")) or sweep
    experiment = _experiment(client, name, storage, uri)
    state.experiment = experiment
    _describe_experiment(client, experiment)
    tag, value = (SWEEP_TAG, sweep) if spec is None else (SWEEP_ID_TAG, spec.id)
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    if found:
        run = found[0]
    else:
        tags = {
            SWEEP_TAG: sweep,
            **({} if spec is None else {SWEEP_ID_TAG: spec.id}),
            "fidelity": str(config.get("fidelity", "")),
            **_code_tags(None if spec is None else spec.provenance),
        }
        began = None if spec is None else _milliseconds(spec.started)
        run = client.create_run(experiment, start_time=began, run_name=sweep, tags=tags)
        _note(client, run, sweep_note(_folder(storage, sweep), _artifacts(run), spec, None))
    if config:
        client.log_dict(run.info.run_id, dict(config), "config.yaml")
    state.parent = run.info.run_id
    return run


def _sync_trial(
    client: MlflowClient,
    parent: Run,
    paths: TrialPaths,
    trial_id: str,
    result: TrialResult | None,
    evaluation: TrialEvaluation | None,
    state: SyncState,
    over: bool,
) -> int:
    spec = read_spec(paths)
    if spec is None:
        return 0
    history = read_events(paths)
    known = state.epochs.get(trial_id)
    if result is None and known is not None and known == len(history) and not over:
        return 0
    run_id = state.runs.get(trial_id) or _child(client, parent, spec, state.colors.get(trial_id))
    state.runs[trial_id] = run_id
    run = client.get_run(run_id)
    if result is not None and run.data.tags.get(COMPLETE_TAG) == _mark(result, evaluation):
        state.complete[trial_id] = _mark(result, evaluation)
        return 0
    sent = _send_epochs(client, run_id, history, spec.started or 0.0)
    state.epochs[trial_id] = len(history)
    if result is not None:
        sent += _send_result(client, run, paths, result, evaluation)
        _note(client, run, trial_note(spec, result))
        state.complete[trial_id] = _mark(result, evaluation)
    elif over and run.info.status == "RUNNING":
        client.set_terminated(run_id, "KILLED")
    elif not over and run.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")
    return sent


def _code_tags(provenance: Provenance | None) -> dict[str, str]:
    if provenance is None:
        return {}
    tags = {
        "mlflow.source.name": f"icu_ray {provenance.version}",
        "mlflow.source.type": "JOB",
        "mlflow.source.git.commit": provenance.commit,
        "code_version": f"{provenance.version} {provenance.commit[:12]}",
        "code_dirty": str(provenance.dirty),
        "dataset_hash": provenance.data[:16],
    }
    return tags | ({"model_hash": provenance.model[:16]} if provenance.model else {})


def _child(client: MlflowClient, parent: Run, spec: TrialSpec, color: str | None) -> str:
    from mlflow.entities import Param

    experiment, parent_id = parent.info.experiment_id, parent.info.run_id
    found = client.search_runs(
        [experiment], f"tags.`{TRIAL_TAG}` = '{spec.trial_id}' and tags.`{PARENT_TAG}` = '{parent_id}'", max_results=1
    )
    if found:
        return str(found[0].info.run_id)
    weights = spec.hyperparameters
    tags = {
        TRIAL_TAG: spec.trial_id,
        PARENT_TAG: parent_id,
        "model": spec.model,
        "method": spec.method,
        "sample": str(spec.sample),
        "seed": str(weights.get("seed", "")),
        "alpha": str(weights.get("alpha", "")),
        "beta": str(weights.get("beta", "")),
        **_code_tags(spec.provenance),
        NOTE_TAG: trial_note(spec, None),
        **({} if color is None else {COLOR_TAG: color}),
    }
    run = client.create_run(experiment, start_time=_milliseconds(spec.started), run_name=spec.name, tags=tags)
    params = {"model": spec.model, "method": spec.method, "sample": spec.sample, **weights}
    client.log_batch(run.info.run_id, params=[Param(key, str(value)[:500]) for key, value in params.items()][:100])
    client.log_dict(run.info.run_id, dict(spec.settings), "settings.yaml")
    return str(run.info.run_id)


EPOCH_MARK = "active_samples"
"""Sent with every epoch in one atomic batch: where it has a step, that whole epoch is on the server."""


def _send_epochs(client: MlflowClient, run_id: str, history: tuple[EpochRecord, ...], started: float) -> int:
    """Those that are not there. Their time is made of what storage says, so that a batch which a slow server takes
    twice is one to it: MLflow keeps one point for a step, time and value."""
    there = {metric.step for metric in client.get_metric_history(run_id, EPOCH_MARK)} if history else set()
    sent, ended = 0, started
    for record in history:
        ended += sum(record.seconds.values())
        if record.epoch not in there:
            sent += _send(client, run_id, epoch_metrics(record), record.epoch, ended)
    return sent


def epoch_metrics(record: EpochRecord) -> dict[str, float]:
    """The metrics of one epoch under the names the UI shows."""
    values: dict[str, float | None] = {EPOCH_MARK: float(record.active), **asdict(record.scores)}
    values |= {f"loss/{name}": value for name, value in record.loss.items()}
    values |= {f"seconds/{name}": value for name, value in record.seconds.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def _send_result(
    client: MlflowClient, run: Run, paths: TrialPaths, result: TrialResult, evaluation: TrialEvaluation | None
) -> int:
    run_id = run.info.run_id
    values: dict[str, float] = {"epochs": float(result.epochs)}
    original: dict[str, float] = {}
    for side, scores, sink in (("before", result.before, original), ("after", result.after, values)):
        if scores is not None:
            sink |= {f"{side}/{name}": float(v) for name, v in asdict(scores).items() if v is not None}
    if result.before and result.after and result.before.ppl_heldout and result.after.ppl_heldout is not None:
        values["ppl_heldout_ratio"] = result.after.ppl_heldout / result.before.ppl_heldout
    if evaluation is not None:
        original |= {f"before/{name}": value for name, value in evaluation.before.items() if value is not None}
        values |= {name: value for name, value in evaluation.after.items() if value is not None}
    there = run.data.metrics
    sent = 0
    for step, wanted in ((0, original), (result.epochs, values)):
        sent += _send(client, run_id, {k: v for k, v in wanted.items() if there.get(k) != v}, step, result.ended)
    samples = read_samples(paths)
    if samples:
        rows = [asdict(sample) for sample in samples]
        # log_table appends to a table that is there, so it is written as a file in the table's own format.
        table = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
        client.log_dict(run_id, table, "samples.json")
        client.set_tag(run_id, "mlflow.loggedArtifacts", '[{"path": "samples.json", "type": "table"}]')
    if evaluation is not None:
        _send_documents(client, run_id, paths, evaluation)
    client.set_tag(run_id, "status", result.status)
    client.set_tag(run_id, "reason", result.reason[:5000])
    if list_dir(paths.model):
        client.set_tag(run_id, "model_path", without_secrets(paths.model))
    client.set_terminated(run_id, STATUS[result.status], end_time=_milliseconds(result.ended))
    client.set_tag(run_id, COMPLETE_TAG, _mark(result, evaluation))
    return sent


def _send_documents(client: MlflowClient, run_id: str, paths: TrialPaths, evaluation: TrialEvaluation) -> None:
    """What was answered to every document, and which tasks could not be evaluated."""
    documents = read_bytes(paths.documents)
    if documents is not None:
        with tempfile.TemporaryDirectory(prefix="icu_ray_documents_") as folder:
            file = Path(folder) / "documents.parquet"
            file.write_bytes(documents)
            client.log_artifact(run_id, str(file), "evaluation")
    if evaluation.errors:
        client.log_dict(run_id, dict(evaluation.errors), "evaluation/errors.json")


def _send(
    client: MlflowClient, run_id: str, values: Mapping[str, float], step: int, seconds: float | None = None
) -> int:
    """seconds: the time of the points (Unix); None: now."""
    from mlflow.entities import Metric

    if values:
        at = int((time.time() if seconds is None else seconds) * 1000)
        client.log_batch(run_id, metrics=[Metric(name, value, at, step) for name, value in values.items()])
    return len(values)


def _finish_parent(
    client: MlflowClient,
    parent: Run,
    storage: str,
    sweep: str,
    spec: Sweep | None,
    results: list[TrialResult | None],
    over: bool,
) -> None:
    run_id = parent.info.run_id
    known = [result for result in results if result is not None]
    counts = {
        "trials_forgotten": sum(r.status == "finished" for r in known),
        "trials_not_forgotten": sum(r.status == "not_forgotten" for r in known),
        "trials_failed": sum(r.status == "failed" for r in known),
        "trials_started": len(results),
    }
    if any(parent.data.metrics.get(name) != float(value) for name, value in counts.items()):
        _send(client, run_id, {name: float(value) for name, value in counts.items()}, len(known))
    if over:
        for name in ("trials.csv", "cells.csv", "summary.json"):
            content = read_bytes(join(storage, sweep, name))
            if content is not None:
                client.log_text(run_id, content.decode(), name)
        cells = read_bytes(join(storage, sweep, "cells.csv"))
        _note(client, parent, sweep_note(_folder(storage, sweep), _artifacts(parent), spec, cells))
        _send_report(client, run_id, join(storage, sweep, "report"))
        failed = counts["trials_failed"] > 0 or len(known) < len(results)
        beat = read_beat(storage, sweep)  # sent later, the run still ends when its driver did
        ended = None if beat is None or beat.state == "running" else _milliseconds(beat.time)
        client.set_terminated(run_id, "FAILED" if failed else "FINISHED", end_time=ended)
    elif parent.info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")


def _send_report(client: MlflowClient, run_id: str, folder: str) -> None:
    """The report's files as artefacts under 'report', where there is one."""
    with tempfile.TemporaryDirectory(prefix="icu_ray_report_") as local:
        for name in list_dir(folder):
            if name.endswith((".html", ".md", ".csv", ".tex", ".png")) and (data := read_bytes(join(folder, name))):
                (Path(local) / name).write_bytes(data)
                client.log_artifact(run_id, str(Path(local) / name), "report")


@contextmanager
def _quiet() -> Iterator[None]:
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
