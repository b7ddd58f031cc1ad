"""MLflow's model registry: versions of a model that requests made, each with the one before it; and taking runs away.

    shown = register_version(uri, "my-model", number=3, base=2, folder="ledger/versions/3/model", ledger=id, tags={})
    set_current(uri, "my-model", ledger=id, number=3)
    mark_removed(uri, "my-model", ledger=id, number=2)
    delete_sweep(uri, sweep_id)

A version there points to the model's folder and copies nothing. It is found again by its tags, so that registering
twice makes one. A server on another machine refuses folders that it cannot see, which is told by its own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.report.tracking.runs import PARENT_TAG, SWEEP_ID_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEDGER_TAG, VERSION_TAG, BASE_TAG = "icu_ray.ledger", "icu_ray.version", "icu_ray.predecessor"
REMOVED_TAG = "icu_ray.model_deleted"
CURRENT = "current"
"""Alias of the version in force."""


def register_version(
    uri: str,
    name: str,
    *,
    number: int,
    base: int,
    folder: str,
    ledger: str,
    tags: Mapping[str, str],
) -> str:
    """Enter a version unless it is there; its name and number in the registry. Raises what MLflow does.

    number, base: of the ledger's version and its predecessor (0: the original). folder: the model's, a path.
    """
    client = _client(uri)
    found = _find(client, name, ledger, number)
    if found is None:
        if not client.search_registered_models(filter_string=f"name = '{name}'"):
            client.create_registered_model(name, tags={LEDGER_TAG: ledger})
        before = _find(client, name, ledger, base) if base else None
        told = {LEDGER_TAG: ledger, VERSION_TAG: str(number), BASE_TAG: str(base), **tags}
        if before is not None:
            told["icu_ray.predecessor_here"] = str(before.version)
        found = client.create_model_version(name, Path(folder).absolute().as_uri(), tags=told)
    return f"{name}/{found.version}"


def mark_removed(uri: str, name: str, *, ledger: str, number: int) -> None:
    """Have a version say that its model is deleted; nothing where it is not there."""
    client = _client(uri)
    found = _find(client, name, ledger, number)
    if found is not None:
        client.set_model_version_tag(
            name, found.version, REMOVED_TAG, "by a purge: it still knew texts that are deleted"
        )


def set_current(uri: str, name: str, *, ledger: str, number: int) -> None:
    """Have the alias 'current' name a version of the ledger; of the original (0) nothing is registered: none has it."""
    client = _client(uri)
    found = _find(client, name, ledger, number) if number else None
    if found is not None:
        client.set_registered_model_alias(name, CURRENT, found.version)
    elif client.search_registered_models(filter_string=f"name = '{name}'"):
        client.delete_registered_model_alias(name, CURRENT)


def delete_sweep(uri: str, sweep_id: str) -> int:
    """Delete the runs of a sweep with their artefacts; how many there were. Raises what MLflow does.

    MLflow keeps a deleted run's numbers until `mlflow gc`; they hold no text.
    """
    from mlflow.entities import ViewType
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = _client(uri)
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    gone = 0
    for parent in client.search_runs(experiments, f"tags.`{SWEEP_ID_TAG}` = '{sweep_id}'", ViewType.ALL):
        children = client.search_runs(experiments, f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'", ViewType.ALL)
        for run in (*children, parent):  # the parent last: by it the others are found again
            get_artifact_repository(run.info.artifact_uri).delete_artifacts()  # type: ignore[no-untyped-call]
            if run.info.lifecycle_stage != "deleted":
                client.delete_run(run.info.run_id)
            gone += 1
    return gone


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _find(client: MlflowClient, name: str, ledger: str, number: int) -> Any:
    """The registry's version of a ledger's, None where it is not there."""
    versions = client.search_model_versions(f"name = '{name}'")
    wanted = {LEDGER_TAG: ledger, VERSION_TAG: str(number)}
    return next((each for each in versions if wanted.items() <= each.tags.items()), None)
