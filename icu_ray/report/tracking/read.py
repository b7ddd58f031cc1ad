"""A sweep as MLflow has it: what was sent (runs.py, metrics.py), as the values that storage has of it.

    found = read_tracked("sqlite:///runs/mlflow.db", "quickstart")      # "quickstart/NAME": one of several sweeps
    found.storage, found.record.config, found.trials[0].result

Runs of others in the experiment are not read. Not all of a sweep is there: no versions of packages, hashes with 16
digits alone, no single texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from icu_ray.errors import UserError, did_you_mean, without_secrets
from icu_ray.report.tracking.runs import PARENT_TAG, STORAGE_TAG, SWEEP_ID_TAG, SWEEP_TAG
from icu_ray.report.tracking.sync import open_client, quiet
from icu_ray.report.tracking.views import TRIAL_TAG
from icu_ray.storage.el_names import by_field
from icu_ray.storage.flat import flatten
from icu_ray.storage.results import (
    Provenance,
    Scores,
    Setting,
    Status,
    Sweep,
    TrialEvaluation,
    TrialResult,
    TrialSpec,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_T = TypeVar("_T")
_PAGE = 500
_OF_TRIAL = ("model", "method", "sample")
_NOT_OF_EVALUATION = ("before", "after", "loss", "seconds", "epoch")
"""What stands before the slash in metrics that are none of the evaluation."""


@dataclass(frozen=True)
class TrackedTrial:
    """A trial's run. result: None while it has none."""

    spec: TrialSpec
    result: TrialResult | None
    evaluation: TrialEvaluation | None


@dataclass(frozen=True)
class TrackedSweep:
    """A sweep's run with those of its trials. storage: where its folder lay, '' where an earlier version sent it.

    record: as sweep.json; of its trials those that were started. missing: what could not be read.
    """

    storage: str
    record: Sweep
    trials: tuple[TrackedTrial, ...]
    missing: tuple[str, ...]


def read_tracked(uri: str, experiment: str) -> TrackedSweep:
    """The only sweep of an experiment, or the one that is named behind a slash by its name or id.

    UserError where there is no such database, server, experiment or sweep, and where several could be meant.
    """
    _refuse_missing_database(uri)
    try:
        with quiet():
            client = open_client(uri)
            return _sweep(client, _parent(client, uri, experiment))
    except UserError:
        raise
    except Exception as error:  # MLflow, its database and its HTTP library each have their own
        said = str(error).strip()
        first = without_secrets(said.splitlines()[0] if said else type(error).__name__)
        raise UserError(f"MLflow at {without_secrets(uri)}: cannot be read: {first}") from error


def _refuse_missing_database(uri: str) -> None:
    """MLflow would make a new one."""
    scheme, _, rest = uri.partition(":///")
    if scheme.startswith("sqlite") and not Path(rest.partition("?")[0]).is_file():
        raise UserError(
            f"MLflow at {uri}: no such file; expected the database of a sweep's runs (--tracking-uri or "
            "MLFLOW_TRACKING_URI names it)"
        )


def _parent(client: MlflowClient, uri: str, asked: str) -> Run:
    where = f"MLflow at {without_secrets(uri)}"
    found, wanted = client.get_experiment_by_name(asked), ""
    if found is None and "/" in asked:
        name, _, wanted = asked.rpartition("/")
        found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        known = [each.name for each in client.search_experiments()]
        near = did_you_mean(asked, known) or f"; it has {', '.join(map(repr, sorted(known)[:10]))}"
        raise UserError(f"{where}: no experiment {asked!r}{near}")
    runs = [run for run in _runs(client, found.experiment_id, f"tags.`{SWEEP_TAG}` LIKE '%'") if not _is_child(run)]
    named = [run for run in runs if not wanted or wanted in (_tag(run, SWEEP_TAG), _tag(run, SWEEP_ID_TAG))]
    if len(named) == 1:
        return named[0]
    choices = ", ".join(f"{_tag(run, SWEEP_TAG)} ({_tag(run, SWEEP_ID_TAG)})" for run in named or runs)
    what = f"holds {len(named)} sweeps" if named else "holds no such sweep" if runs else "holds no sweep of icu_ray"
    remedy = f"; expected mlflow:{found.name}/ID with the id of one of: {choices}" if choices else ""
    raise UserError(f"{where}: experiment {asked!r} {what}{remedy}")


def _is_child(run: Run) -> bool:
    return PARENT_TAG in run.data.tags


def _tag(run: Run, key: str) -> str:
    return str(run.data.tags.get(key, ""))


def _runs(client: MlflowClient, experiment: str, asked: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment], asked, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _sweep(client: MlflowClient, parent: Run) -> TrackedSweep:
    missing: list[str] = []
    config = _yaml(client, parent, "config.yaml", "the sweep's config", missing)
    own = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
    runs = [run for run in _runs(client, parent.info.experiment_id, own) if TRIAL_TAG in run.data.tags]
    runs.sort(key=lambda run: (run.info.start_time or 0, _tag(run, TRIAL_TAG)))
    trials = tuple(_trial(client, run, config, missing) for run in runs)
    name = _tag(parent, SWEEP_TAG)
    record = Sweep(
        _tag(parent, SWEEP_ID_TAG),
        name,
        (parent.info.start_time or 0) / 1000,
        config,
        tuple(trial.spec for trial in trials),
        _provenance(parent, config),
    )
    return TrackedSweep(_tag(parent, STORAGE_TAG), record, trials, tuple(dict.fromkeys(missing)))


def _yaml(client: MlflowClient, run: Run, name: str, what: str, missing: list[str]) -> dict[str, Any]:
    """An artefact of a run; empty, and named in `missing`, where it is not there or its store is out of reach."""
    with tempfile.TemporaryDirectory(prefix="icu_ray_artifact_") as folder:
        try:
            content = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, name, folder)).read_bytes())
        except Exception:  # each artefact store has its own errors
            content = None
    if isinstance(content, dict):
        return content
    missing.append(what)
    return {}


def _trial(client: MlflowClient, run: Run, config: Mapping[str, Any], missing: list[str]) -> TrackedTrial:
    settings = _yaml(client, run, "settings.yaml", "settings of trials", missing)
    provenance = _provenance(run, config)
    flat = flatten(settings)
    told = {
        key: _value(text)
        for key, text in run.data.params.items()
        if key not in _OF_TRIAL and "." not in key and not (key in flat and str(flat[key]) == text)
    }
    told |= {key: _value(text) for key in ("alpha", "beta", "lr", "seed") if (text := _tag(run, key))}
    trial_id, name = _tag(run, TRIAL_TAG), str(run.info.run_name)
    model, method, sample = _tag(run, "model"), _tag(run, "method"), int(_tag(run, "sample") or 0)
    started = None if run.info.start_time is None else run.info.start_time / 1000
    spec = TrialSpec(trial_id, name, model, method, sample, told, 0, settings, started, provenance)
    status = _tag(run, "status")
    if status not in get_args(Status):
        return TrackedTrial(spec, None, None)
    result = TrialResult(
        trial_id,
        name,
        model,
        method,
        sample,
        told,
        status,  # type: ignore[arg-type]
        _tag(run, "reason"),
        int(run.data.metrics.get("epochs", 0)),
        _scores(run, "before"),
        _scores(run, "after"),
        {},
        provenance,
        None if run.info.end_time is None else run.info.end_time / 1000,
    )
    return TrackedTrial(spec, result, _evaluation(run))


def _value(text: str) -> Setting:
    """A parameter, which MLflow has as text."""
    if text in ("True", "False"):
        return text == "True"
    return _first(text, int, float) if text else text


def _first(text: str, *kinds: Callable[[str], Setting]) -> Setting:
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _provenance(run: Run, config: Mapping[str, Any]) -> Provenance:
    version, _, short = _tag(run, "code_version").partition(" ")
    commit = _tag(run, "mlflow.source.git.commit") or short
    data, model = _tag(run, "dataset_hash"), _tag(run, "model_hash")
    return Provenance(version, commit, _tag(run, "code_dirty") == "True", data, model, {}, config)


_SCORES = {field.name: None if field.default is MISSING else field.default for field in fields(Scores)}


def _scores(run: Run, side: str) -> Scores | None:
    """A model's scores; None where none of them was sent."""
    sent = {name.removeprefix(f"{side}/"): value for name, value in run.data.metrics.items() if name.count("/") == 1}
    named = by_field({key: value for key, value in sent.items() if f"{side}/{key}" in run.data.metrics})
    known = {key: value for key, value in named.items() if key in _SCORES}
    if "ma" not in known and "forget_loss" not in known:
        return None
    for key in ("el_unmeasured", "heldout_texts", "ngram"):
        if key in known:
            known[key] = int(known[key])
    return Scores(**{**_SCORES, **known})


def _evaluation(run: Run) -> TrialEvaluation | None:
    """Metrics of the evaluation; those of the model before stand behind 'before/'."""
    after = {
        name: value
        for name, value in run.data.metrics.items()
        if "/" in name and name.partition("/")[0] not in _NOT_OF_EVALUATION
    }
    before = {name: value for name in after if (value := run.data.metrics.get(f"before/{name}")) is not None}
    return TrialEvaluation({}, ("", ""), before, after) if after else None
