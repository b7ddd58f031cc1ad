"""From a config to a flat, ordered list of trials: what will run, under which name, and about how long.

    plan = make_plan(config, check_data(config))
    for trial in plan.trials: print(trial.name, trial.trial_id, trial.status)

A trial's id is a hash of everything that decides its result and of nothing else: not the number of workers, not a path,
not the time. The same cell in another sweep folder, on another cluster, has the same id; that is how a sweep resumes.
Nothing here imports Ray or torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from icu_ray import methods
from icu_ray.config import MethodConfig, ModelConfig, PairsConfig, SweepConfig
from icu_ray.data.corpus import DataCheck
from icu_ray.errors import UserError, did_you_mean
from icu_ray.estimates import TRIAL_OVERHEAD_MINUTES, corrected, error_said, estimate_minutes
from icu_ray.job import TrialJob
from icu_ray.objective import middle_of
from icu_ray.results import TrialPaths, read_events, read_result, read_sweep, trial_ids
from icu_ray.schedule import Gang, by_work
from icu_ray.store import content_hash

IDENTITY_FORMAT = 1
"""Raised when a change of code changes results for the same config."""

PlannedStatus = Literal["new", "resumable", "finished", "not_forgotten", "failed"]
DONE: tuple[PlannedStatus, ...] = ("finished", "not_forgotten")

_READERS = 16


@dataclass(frozen=True)
class Trial:
    """One cell of the grid.

    hyperparameters: what result.json shows of it. identity: the plain values whose hash is trial_id.
    minutes: estimated duration on its workers.
    """

    trial_id: str
    name: str
    model: ModelConfig
    sample: int
    label: str
    job: TrialJob
    identity: Mapping[str, Any]
    minutes: float
    status: PlannedStatus = "new"
    epochs_done: int = 0
    took: float | None = None
    """Minutes that it took, once it has ended."""
    spent: float = 0.0
    """Minutes that it has had so far, however it stands."""

    @property
    def workers(self) -> int:
        """Training workers, placed as a gang."""
        return self.model.workers

    @property
    def gpu_hours(self) -> float:
        """Estimated GPU hours; 0 for a trial without GPUs."""
        return self.minutes / 60 * self.workers * self.model.gpus

    @property
    def cpu_hours(self) -> float:
        """Estimated hours of CPU cores."""
        return self.minutes / 60 * self.workers * self.model.cpus_per_worker

    @property
    def hyperparameters(self) -> dict[str, float | int | str | bool]:
        """The values a reader compares trials by."""
        job = self.job
        return {
            "alpha": job.alpha,
            "beta": job.beta,
            "lr": job.lr,
            "batch_size": job.batch_size,
            "seed": job.seed,
            **dict(job.settings),
        }


@dataclass(frozen=True)
class Plan:
    """All trials, most work first; `provisional` says that ids lack the data's fingerprint because it is not there."""

    config: SweepConfig
    trials: tuple[Trial, ...]
    data: DataCheck | None
    provisional: str = ""
    open_trials: int = 0
    """How many further trials a search will choose."""

    @property
    def waiting(self) -> tuple[Trial, ...]:
        """Trials that still have to run, in order."""
        return tuple(trial for trial in self.trials if trial.status not in DONE)

    @property
    def gpu_hours(self) -> float:
        """Estimate for the trials that still have to run."""
        return sum(trial.gpu_hours for trial in self.waiting)

    @property
    def worker_minutes(self) -> float:
        """Estimated minutes of all waiting trials times their workers."""
        return sum(trial.minutes * trial.workers for trial in self.waiting)


def make_plan(config: SweepConfig, data: DataCheck | None, *, provisional: str = "") -> Plan:
    """Expand the grid, name every trial, read its status from storage and put the largest first."""
    known = methods.names()
    for method in config.methods:
        if method.name not in known:
            raise UserError(
                f"methods: unknown method '{method.name}'{did_you_mean(method.name, known)}; known: {', '.join(known)}"
            )
    if data is not None:
        paired = [m.name for m in config.methods if any(_needs_pairs(m, a, b) for a, b in m.grid())]
        data.require_pool(paired)
    _refuse_unknown_models(config)
    if config.search is not None:
        return _search_plan(config, data, provisional)
    trials: dict[str, Trial] = {}
    fingerprints = {model.name: model_fingerprint(model) for model in config.models}
    for model in config.models:
        for sample in config.samples:
            for method in _methods_of(model, config):
                for alpha, beta in _cells(method):
                    trial = _trial(config, data, model, fingerprints[model.name], sample, method, alpha, beta)
                    if trial.trial_id in trials:
                        raise UserError(
                            f"methods: trials {trials[trial.trial_id].name} and {trial.name} are one and the same cell "
                            "(equal model, sample, method and weights); remove one"
                        )
                    trials[trial.trial_id] = trial
    _refuse_equal_names(trials.values())
    with_status = corrected(_with_statuses(trials, config))
    ordered = sorted(with_status, key=lambda trial: by_work(gang_of(trial)))
    return Plan(config, tuple(ordered), data, provisional)


def searched_trial(plan: Plan, values: Mapping[str, float]) -> Trial:
    """The trial of a search at these values (alpha, beta, lr), to three digits; what is not given is the config's."""
    config, (model,), (method,) = plan.config, plan.config.models, plan.config.methods
    kept = {name: float(f"{value:.3g}") for name, value in values.items()}
    alpha, beta = method.grid()[0]
    lr = kept.get("lr", model.lr or config.optim.lr)
    model = model.model_copy(update={"lr": lr})
    identity, sample = model_fingerprint(model), config.samples[0]
    cell = kept.get("alpha", alpha), kept.get("beta", beta)
    trial = _trial(config, plan.data, model, identity, sample, method, *cell)
    return replace(trial, name=f"{trial.name}-lr{lr:g}") if "lr" in kept else trial


def claims_of(plan: Plan, trials: Iterable[Trial]) -> dict[str, Gang]:
    """The gang of each model among these trials, and of those that a search will choose."""
    coming = () if plan.config.search is None or not plan.open_trials else (coming_trial(plan),)
    return {trial.model.name: gang_of(trial) for trial in (*trials, *coming)}


def coming_trial(plan: Plan) -> Trial:
    """A trial from the midst of a search's space: it stands for what the others will need."""
    assert plan.config.search is not None
    return searched_trial(plan, middle_of(plan.config.search))


def _search_plan(config: SweepConfig, data: DataCheck | None, provisional: str) -> Plan:
    """The trials that earlier runs of this search have begun, as long as they are still what this config asks for."""
    assert config.search is not None
    _refuse_impossible_search(config, data)
    empty = Plan(config, (), data, provisional, config.search.trials)
    earlier = read_sweep(config.storage, config.name)
    trials = {}
    for spec in () if earlier is None else earlier.trials:
        values: dict[str, float] = {
            name: float(spec.hyperparameters[name]) for name in config.search.space if name in spec.hyperparameters
        }
        trial = searched_trial(empty, values)
        if trial.trial_id == spec.trial_id:
            trials[trial.trial_id] = trial
    known = corrected(_with_statuses(trials, config))
    return Plan(config, tuple(known), data, provisional, max(0, config.search.trials - len(known)))


def _refuse_impossible_search(config: SweepConfig, data: DataCheck | None) -> None:
    search, method, model = config.search, config.methods[0], config.models[0]
    assert search is not None
    known = methods.method_class(method.name)
    unused = [name for name, used in (("alpha", known.uses_alpha), ("beta", known.uses_beta)) if not used]
    for name in search.space:
        if name in unused:
            raise UserError(f"search.space: {method.name} does not use {name}; leave it out")
    if not (known.trains and model.train):
        raise UserError("search: there is nothing to search for a model that is not trained")
    if data is not None and data.heldout == 0:
        raise UserError(
            "search: its objective needs held-out rows, and data has none; set data.heldout (or heldout_rows)"
        )
    epochs = model.max_epochs or config.stop.max_epochs
    if search.stop_early and search.grace_epochs > epochs:
        raise UserError(f"search.grace_epochs: {search.grace_epochs} are more than the {epochs} epochs of a trial")


_AS_IT_IS = MethodConfig(name="original")


def _methods_of(model: ModelConfig, config: SweepConfig) -> tuple[MethodConfig, ...]:
    """What is run on a model."""
    if not model.train:
        return (_AS_IT_IS,)
    return tuple(method for method in config.methods if method.models is None or model.name in method.models)


def _cells(method: MethodConfig) -> tuple[tuple[float, float], ...]:
    """The method's cells, those that differ only in a weight it does not use taken once (as 0)."""
    known = methods.method_class(method.name)
    cells = [(a if known.uses_alpha else 0.0, b if known.uses_beta else 0.0) for a, b in method.grid()]
    return tuple(dict.fromkeys(cells)) if not (known.uses_alpha and known.uses_beta) else tuple(cells)


def _refuse_unknown_models(config: SweepConfig) -> None:
    trained = [model.name for model in config.models if model.train]
    for number, method in enumerate(config.methods):
        for name in method.models or ():
            if name not in trained:
                raise UserError(
                    f"methods.{number}.models: '{name}' is none of the models that are trained"
                    f"{did_you_mean(name, trained)}; expected some of {', '.join(trained) or 'none'}"
                )


def _needs_pairs(method: MethodConfig, alpha: float, beta: float) -> bool:
    return methods.get(method.name, alpha=alpha, beta=beta, settings=method.settings).needs_pairs


def _trial(
    config: SweepConfig,
    data: DataCheck | None,
    model: ModelConfig,
    model_identity: Mapping[str, Any],
    sample: int,
    method: MethodConfig,
    alpha: float,
    beta: float,
) -> Trial:
    known = methods.method_class(method.name)
    stop = config.stop.model_copy(update=method.stop.model_dump(exclude_none=True))
    job = TrialJob(
        method=method.name,
        alpha=float(alpha),
        beta=float(beta),
        lr=model.lr or config.optim.lr,
        batch_size=model.batch_size or config.train.batch_size,
        max_epochs=(model.max_epochs or config.stop.max_epochs) if known.trains else 0,
        settings=dict(method.settings),
        seed=config.seed,
        micro_batch=model.micro_batch,
        precision=model.precision,
        zero_stage=model.zero_stage,
        offload_optimizer=model.offload_optimizer,
        loss=config.loss,
        optim=config.optim,
        train=config.train,
        filter=config.filter,
        generate=config.generate,
        el=config.el,
        eval=config.eval,
        stop=stop,
    )
    identity: dict[str, Any] = {
        "format": IDENTITY_FORMAT,
        "model": {**model_identity, **_standin_corpus(model, data)},
        "sample": sample if data is None else data.samples[sample].fingerprint,
        "heldout": None if data is None else data.heldout,
        "method": {"name": job.method, "alpha": job.alpha, "beta": job.beta, "settings": dict(job.settings)},
        "columns": config.columns.model_dump(mode="json"),
        "tokens": config.tokens.model_dump(mode="json"),
        "pairs": _pairs_identity(config.pairs, data),
        "loss": config.loss.model_dump(mode="json", exclude={"chunk"}),
        "optim": {"lr": job.lr, "betas": list(config.optim.betas), "eps": config.optim.eps},
        "train": {**config.train.model_dump(mode="json", exclude={"batch_size"}), "batch_size": job.batch_size},
        "filter": config.filter.model_dump(mode="json", exclude={"batch_size"}),
        "generate": config.generate.model_dump(mode="json"),
        "el": config.el.model_dump(mode="json"),
        "eval": config.eval.model_dump(mode="json", exclude={"chunk", "el", "heldout"}),
        "stop": {**stop.model_dump(mode="json", exclude={"max_epochs"}), "max_epochs": job.max_epochs},
        "precision": job.precision,
        "seed": job.seed,
    }
    label = method.label or method.name
    return Trial(
        trial_id=content_hash(identity)[:16],
        name=f"{label}-{model.name}-s{sample}" + _weights_of(job),
        model=model,
        sample=sample,
        label=label,
        job=job,
        identity=identity,
        minutes=estimate_minutes(model, config, None if data is None else data.samples[sample].targets)
        if known.trains
        else TRIAL_OVERHEAD_MINUTES,
    )


def _weights_of(job: TrialJob) -> str:
    """'-a0.5-b1.0', without the weights that the method does not use."""
    known = methods.method_class(job.method)
    alpha = f"-a{_short(job.alpha)}" if known.uses_alpha else ""
    return alpha + (f"-b{_short(job.beta)}" if known.uses_beta else "")


def _short(value: float) -> str:
    text = f"{value:g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _pairs_identity(pairs: PairsConfig, data: DataCheck | None) -> dict[str, Any]:
    identity = pairs.model_dump(mode="json", exclude={"shards", "actors", "batch_size", "index"})
    if pairs.index == "approximate":
        # What an approximate search finds depends on the texts of all samples, among which its cells are made.
        identity["index"] = {"approximate": None if data is None else data.fingerprint}
    return identity


def _standin_corpus(model: ModelConfig, data: DataCheck | None) -> dict[str, Any]:
    # A stand-in is trained on all rows of the sweep, so all of them are part of what it is.
    return {} if model.standin is None else {"corpus": None if data is None else data.fingerprint}


def model_fingerprint(model: ModelConfig) -> dict[str, Any]:
    """What decides a model: stand-in settings, hub id and revision, or the content of a local folder."""
    if model.standin is not None:
        return {"standin": model.standin.model_dump(mode="json")}
    assert model.source is not None
    folder = Path(model.source)
    if not folder.is_dir():
        return {"hub": model.source, "revision": model.revision}
    return {"content": folder_fingerprint(folder)}


FULL_HASH_BYTES = 512 * 1024**2


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 of a model folder: whole files up to 512 MiB, of larger ones the size and the first and last MiB."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".bin", ".model", ".txt"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= FULL_HASH_BYTES:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            else:
                digest.update(file.read(1024**2))
                file.seek(-(1024**2), 2)
                digest.update(file.read(1024**2))
    return digest.hexdigest()


def gang_of(trial: Trial) -> Gang:
    """What a trial claims."""
    model = trial.model
    return Gang(trial.trial_id, model.workers, trial.minutes, float(model.cpus_per_worker), float(model.gpus))


def _refuse_equal_names(trials: Iterable[Trial]) -> None:
    seen: dict[str, str] = {}
    for trial in trials:
        if trial.name in seen:
            raise UserError(
                f"methods: two trials would be called {trial.name}; give one of the methods a 'label' of its own"
            )
        seen[trial.name] = trial.trial_id


def _with_statuses(trials: Mapping[str, Trial], config: SweepConfig) -> list[Trial]:
    """What storage says of each: one listing, and then only the files of trials that have a folder."""
    there = set(trial_ids(config.storage, config.name)) & set(trials)
    with ThreadPoolExecutor(
        _READERS
    ) as pool:  # a remote storage answers after tens of milliseconds, thousands of times
        known = dict(zip(there, pool.map(lambda trial_id: _with_status(trials[trial_id], config), there), strict=True))
    return [known.get(trial_id, trial) for trial_id, trial in trials.items()]


def _with_status(trial: Trial, config: SweepConfig) -> Trial:
    paths = TrialPaths.of(config.storage, config.name, trial.trial_id)
    result = read_result(paths)
    if result is not None:
        spent = result.seconds.get("total", 0.0) / 60
        took = spent if result.status in DONE else None
        return replace(trial, status=result.status, epochs_done=result.epochs, took=took, spent=spent)
    history = read_events(paths)
    if history:
        spent = sum(sum(record.seconds.values()) for record in history) / 60
        return replace(trial, status="resumable", epochs_done=history[-1].epoch, spent=spent)
    return trial


def plan_json(plan: Plan) -> str:
    """The plan as JSON, for scripts."""
    return json.dumps(
        {
            "name": plan.config.name,
            "storage": plan.config.storage,
            "fidelity": plan.config.fidelity,
            "gpu_hours": round(plan.gpu_hours, 3),
            "error": error_said(plan.trials),
            "provisional": plan.provisional,
            "trials": [
                {
                    "trial_id": trial.trial_id,
                    "name": trial.name,
                    "model": trial.model.name,
                    "sample": trial.sample,
                    "method": trial.label,
                    "hyperparameters": trial.hyperparameters,
                    "workers": trial.workers,
                    "gpus_per_worker": trial.model.gpus,
                    "status": trial.status,
                    "epochs_done": trial.epochs_done,
                    "minutes": round(trial.minutes, 2),
                    "gpu_hours": round(trial.gpu_hours, 3),
                }
                for trial in plan.trials
            ],
        },
        indent=2,
    )
