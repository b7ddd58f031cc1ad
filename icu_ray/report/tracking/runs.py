"""Experiment, a sweep's parent run, a trial's child run: each found by its tags, or made.

experiment = find_or_make_experiment(client, "quickstart", "runs", uri)
parent = find_or_make_parent(client, experiment, "runs", "quickstart", sweep)
run_id = find_or_make_child(client, parent, spec, color)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.views import (
    COLOR_TAG,
    NOTE_TAG,
    SIGNATURE,
    TRIAL_TAG,
    experiment_tags,
    sweep_note,
    tag_ngrams,
    trial_note,
)
from icu_ray.storage.el_names import PAPER_NGRAM, config_ngram
from icu_ray.storage.files import join, local_path
from icu_ray.storage.flat import flatten
from icu_ray.storage.results import Provenance, Sweep, TrialSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP_TAG = "icu_ray.sweep"
SWEEP_ID_TAG = "icu_ray.sweep_id"
PARENT_TAG = "mlflow.parentRunId"
STORAGE_TAG = "icu_ray.storage"
"""Where the sweep's folder lies, by which a comparison finds its files again."""


def milliseconds(seconds: float | None) -> int | None:
    """MLflow's times from ours."""
    return None if seconds is None else int(1000 * seconds)


def storage_told(storage: str) -> str:
    """A storage as its sweeps' runs name it: a folder by its whole path, an address without user and password."""
    folder = local_path(storage)
    return without_secrets(storage) if folder is None else str(folder.resolve())


def find_or_make_experiment(client: MlflowClient, name: str, storage: str, uri: str) -> str:
    """Its id; UserError where it was deleted.

    The artefacts of a database file lie beside the results; a server knows itself where it keeps them.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        restore = f"mlflow experiments restore --experiment-id {found.experiment_id}"
        raise UserError(
            f"MLflow at {without_secrets(uri)}: experiment '{name}' was deleted there and takes no runs; restore it "
            f"({restore}, with MLFLOW_TRACKING_URI set) or remove it for good (mlflow gc)"
        )
    if found is not None:
        return str(found.experiment_id)
    folder = local_path(storage)
    location = None
    if uri.startswith("sqlite:") and folder is not None:
        location = (folder.resolve() / "mlflow_artifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def describe_experiment(client: MlflowClient, experiment: str, sweep: Sweep | None) -> None:
    """Its description and saved views, where it lacks them or they lack the sweep's n of EL.

    What someone has written there stays.
    """
    there = client.get_experiment(experiment)
    created, ngrams = there.creation_time or 0, _ngrams(sweep)
    for key in experiment_tags(experiment, created):
        known = there.tags.get(key)
        told = tag_ngrams(known or "")
        if known is not None and known != experiment_tags(experiment, created, told)[key]:
            continue
        value = experiment_tags(experiment, created, ngrams | told)[key]
        if value != known:
            client.set_experiment_tag(experiment, key, value)


def _ngrams(sweep: Sweep | None) -> set[int]:
    """n of EL in a sweep's trials, as its plan tells them."""
    if sweep is None:
        return {PAPER_NGRAM}
    own = config_ngram(sweep.config) or PAPER_NGRAM
    return {config_ngram(spec.settings) or own for spec in sweep.trials} or {own}


def set_note(client: MlflowClient, run: Run, text: str) -> None:
    """The description of a run, unless someone has taken it over."""
    there = run.data.tags.get(NOTE_TAG)
    if there != text and (there is None or SIGNATURE in there):
        client.set_tag(run.info.run_id, NOTE_TAG, text)


def parent_note(storage: str, name: str, parent: Run, sweep: Sweep | None, cells: bytes | None) -> str:
    """The description of a sweep's run; cells: cells.csv once there is one."""
    artifacts = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}/artifacts"
    return sweep_note(without_secrets(join(storage, name)), artifacts, sweep, cells)


def find_or_make_parent(client: MlflowClient, experiment: str, storage: str, name: str, sweep: Sweep | None) -> Run:
    """The sweep's run, found by the id of its folder: another storage may hold a sweep of the same name."""
    tag, value = (SWEEP_TAG, name) if sweep is None else (SWEEP_ID_TAG, sweep.id)
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    if found:
        return found[0]
    tags = {
        SWEEP_TAG: name,
        **({} if sweep is None else {SWEEP_ID_TAG: sweep.id}),
        "fidelity": str("" if sweep is None else sweep.config.get("fidelity", "")),
        **_code_tags(None if sweep is None else sweep.provenance),
    }
    began = None if sweep is None else milliseconds(sweep.started)
    run = client.create_run(experiment, start_time=began, run_name=name, tags=tags)
    set_note(client, run, parent_note(storage, name, run, sweep, None))
    return run


def find_or_make_child(client: MlflowClient, parent: Run, spec: TrialSpec, color: str | None) -> str:
    """Id of a trial's run, found by trial id below its parent. color: for a new one."""
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
        "lr": str(weights.get("lr", "")),
        **_code_tags(spec.provenance),
        NOTE_TAG: trial_note(spec, None),
        **({} if color is None else {COLOR_TAG: color}),
    }
    run = client.create_run(experiment, start_time=milliseconds(spec.started), run_name=spec.name, tags=tags)
    params = {"model": spec.model, "method": spec.method, "sample": spec.sample, **weights}
    # All that decides a result, so that MLflow's comparison of runs shows what differs; a batch holds a hundred.
    params |= {key: value for key, value in flatten(spec.settings).items() if key not in params}
    client.log_batch(run.info.run_id, params=[Param(key, str(value)[:500]) for key, value in params.items()][:100])
    client.log_dict(run.info.run_id, dict(spec.settings), "settings.yaml")
    return str(run.info.run_id)


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
