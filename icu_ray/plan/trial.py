"""One trial of the grid as a frozen value, its id, its name, and what it claims of the cluster.

A trial's id is a hash of everything that decides its result and of nothing else: not the number of workers, not a path,
not the time. The same trial in another sweep folder, on another cluster, has the same id; that is how a sweep resumes.

    trial = trial_of(config, data, model, model_fingerprint(model), sample, method, alpha=0.5, beta=1.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from icu_ray import methods
from icu_ray.config import (
    MethodConfig,
    ModelConfig,
    OptimConfig,
    PairsConfig,
    RecordsData,
    StopConfig,
    SweepConfig,
    TrainConfig,
)
from icu_ray.data.corpus import DataCheck
from icu_ray.data.embedding import encoder_identity
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.models.retrained import published_retrained
from icu_ray.plan.estimates import TRIAL_OVERHEAD_MINUTES, estimate_of, measuring_minutes
from icu_ray.plan.past_trials import Work
from icu_ray.plan.schedule import WorkerGroup
from icu_ray.plan.text_lengths import target_rows
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.store import content_hash

IDENTITY_FORMAT = 2
"""Raised when a change of code changes results for the same config."""

PlannedStatus = Literal["new", "resumable", "finished", "not_forgotten", "failed"]
DONE: tuple[PlannedStatus, ...] = ("finished", "not_forgotten")


@dataclass(frozen=True)
class Trial:
    """One trial of the grid.

    hyperparameters: what result.json shows of it. identity: the plain values whose hash is trial_id.
    minutes: estimated duration on its workers. work: what it is counted to do; None: it does not train. told_by: how
    many trials that ended on this machine tell the estimate, and error: the factor it may be off by as they say.
    """

    trial_id: str
    name: str
    model: ModelConfig
    sample: int
    label: str
    settings: TrialSettings
    identity: Mapping[str, Any]
    minutes: float
    status: PlannedStatus = "new"
    epochs_done: int = 0
    took: float | None = None
    """Minutes that it took, once it has ended."""
    spent: float = 0.0
    """Minutes that it has had so far, however it stands."""
    work: Work | None = None
    told_by: int = 0
    error: float | None = None

    @property
    def workers(self) -> int:
        """Training workers, placed as one group."""
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
        settings = self.settings
        return {
            "alpha": settings.alpha,
            "beta": settings.beta,
            "lr": settings.lr,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            **dict(settings.method_settings),
            **({} if settings.step is None else {"step": settings.step.rule, **settings.step.settings}),
        }


def trial_of(
    config: SweepConfig,
    data: DataCheck | None,
    model: ModelConfig,
    model_identity: Mapping[str, Any],
    sample: int,
    method: MethodConfig,
    alpha: float,
    beta: float,
    seed: int | None = None,
    lr: float | None = None,
) -> Trial:
    """seed: None: the config's only one. lr: None: the model's or the sweep's."""
    known = methods.method_class(method.name)
    built = methods.get(method.name, alpha=alpha, beta=beta, settings=method.settings, step=method.step)
    stop = config.stop.model_copy(update=method.stop.model_dump(exclude_none=True))
    lr, max_epochs = lr or model.lr or config.optim.lr, config.epochs_of(model, method)
    optim, refining = config.optim, config.filter
    if method.filter is not None:
        refining = refining.model_copy(update={"rule": method.filter})
    if known.fine_tunes:
        own = built.settings
        lr, max_epochs = float(own["lr"]), int(own["epochs"])
        optim = optim.model_copy(update={"schedule": own["schedule"], "warmup_epochs": 0.0})
        stop = stop.model_copy(update={"rule": "epochs", "max_steps": None, "audited": False})
        refining = refining.model_copy(update={"rule": "never"})
    settings = TrialSettings(
        method=method.name,
        alpha=float(alpha),
        beta=float(beta),
        lr=lr,
        batch_size=model.batch_size or config.train.batch_size,
        max_epochs=max_epochs if known.trains else 0,
        method_settings=dict(method.settings),
        seed=config.all_seeds[0] if seed is None else seed,
        micro_batch=model.micro_batch,
        precision=model.precision,
        zero_stage=model.zero_stage,
        offload_optimizer=model.offload_optimizer,
        activation_checkpointing=model.activation_checkpointing,
        loss=config.loss,
        optim=optim,
        train=config.train,
        filter=refining,
        generate=config.generate,
        el=config.el,
        eval=config.eval,
        stop=stop,
        step=method.step,
        leak=config.audit.leak if stop.audited or searches_audited(config) else None,
    )
    published = published_retrained(model) if method.name == methods.RETRAINED else None
    identity: dict[str, Any] = {
        "format": IDENTITY_FORMAT,
        "model": {**model_identity, **_corpus_of(model, data)},
        "sample": sample if data is None else data.samples[sample].fingerprint,
        "heldout": None if data is None else data.heldout,
        **_heldout_texts(config, data, model, stop),
        "method": {
            "name": settings.method,
            "alpha": settings.alpha,
            "beta": settings.beta,
            "settings": dict(settings.method_settings),
            **({} if method.step is None else {"step": {"rule": method.step.rule, **method.step.settings}}),
        },
        "columns": config.columns.model_dump(mode="json"),
        # The other choices only say what is cut, or refuse it; trials of before there was this one are found again.
        **({"rows": "windows"} if config.rows.long == "windows" else {}),
        "tokens": config.tokens.model_dump(mode="json"),
        "pairs": _pairs_identity(config.pairs, data, sample),
        "loss": _loss_identity(config),
        "optim": _optim_identity(settings),
        "train": {**_train_identity(config.train), "batch_size": settings.batch_size},
        "filter": {
            **settings.filter.model_dump(mode="json", exclude={"batch_size"}),
            "encoder": encoder_identity(config.filter.encoder),
        },
        "generate": config.generate.model_dump(mode="json"),
        "el": config.el.model_dump(mode="json"),
        "eval": config.eval.model_dump(mode="json", exclude={"chunk", "el", "heldout"}),
        "stop": {**_stop_identity(stop), "max_epochs": settings.max_epochs},
        # What counts as come back decides how long such a trial goes on.
        **({"leak": config.audit.leak} if stop.audited else {}),
        "precision": settings.precision,
        "seed": settings.seed,
        **({} if model.lora is None or not known.trains else {"lora": model.lora.identity()}),
        **({} if not built.needs_alternates else {"answers": _answers_identity(built.answers, config, data, sample)}),
        **({} if published is None else {"retrained": model_fingerprint(published, config.chats)}),
    }
    label = method.shown
    estimate = None
    heldout = 0 if data is None else data.heldout
    rows = None
    if data is not None and (known.trains or published is not None):
        rows = target_rows(config, model, sample, data.samples[sample].targets)
    if known.trains:
        pool = None if data is None or "pair" not in built.cost.passes else data.samples[sample].pool
        estimate = estimate_of(
            model,
            config,
            rows,
            heldout=heldout,
            cost=built.cost,
            pool=pool,
            epochs=settings.max_epochs if stop.rule == "epochs" else None,
            most=settings.max_epochs,
            lr=lr,
        )
    minutes = TRIAL_OVERHEAD_MINUTES if estimate is None else estimate.minutes
    if published is not None:
        minutes = measuring_minutes(model, config, rows, heldout)
    return Trial(
        trial_id=content_hash(identity)[:16],
        name=f"{label}-{model.name}-s{sample}" + _weights_of(settings) + _seed_of(settings),
        model=model,
        sample=sample,
        label=label,
        settings=settings,
        identity=identity,
        minutes=minutes,
        work=None if estimate is None else estimate.work,
        told_by=0 if estimate is None else estimate.trials,
        error=None if estimate is None else estimate.error,
    )


def _weights_of(settings: TrialSettings) -> str:
    """'-a0.5-b1.0', without the weights that the method does not use."""
    known = methods.method_class(settings.method)
    alpha = f"-a{_short(settings.alpha)}" if known.alpha_counts(settings.method_settings) else ""
    return alpha + (f"-b{_short(settings.beta)}" if known.uses_beta else "")


def _seed_of(settings: TrialSettings) -> str:
    """'-seed7', nothing for the default: trials of several seeds are told apart wherever their names stand."""
    return "" if settings.seed == SweepConfig.model_fields["seed"].default else f"-seed{settings.seed}"


def _short(value: float) -> str:
    text = f"{value:g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _optim_identity(settings: TrialSettings) -> dict[str, Any]:
    optim, usual = settings.optim, OptimConfig()
    later = {name: getattr(optim, name) for name in ("weight_decay", "schedule", "warmup_epochs", "clip")}
    set_ = {name: value for name, value in later.items() if value != getattr(usual, name)}
    # Trials of before had other results where these are set: biases and norms decayed too, a warm-up began at 1/n.
    if optim.weight_decay > 0:
        set_["decay"] = "without biases and norms"
    if optim.warmup_epochs > 0:
        set_["warmup"] = "from 0"
    return {"lr": settings.lr, "betas": list(optim.betas), "eps": optim.eps, **set_}


def searches_audited(config: SweepConfig) -> bool:
    """Whether a search maximises what holds; its trials train what they would for another objective."""
    return config.search is not None and config.search.objective == "audited"


def _stop_identity(stop: StopConfig) -> dict[str, Any]:
    # A key that came later enters only where it is set, so that trials of before are found again.
    later = {"max_ppl_ratio", "keep", "max_steps", "audited"}
    unset = {name for name in later if getattr(stop, name) == StopConfig.model_fields[name].default}
    return stop.model_dump(mode="json", exclude={"max_epochs", *unset})


def _loss_identity(config: SweepConfig) -> dict[str, Any]:
    # `on` came later, and says nothing of plain texts.
    used = config.data.prompted and config.loss.on != "completion"
    return config.loss.model_dump(mode="json", exclude={"chunk", *(() if used else ("on",))})


def _train_identity(train: TrainConfig) -> dict[str, Any]:
    # `anchor` came later.
    return train.model_dump(mode="json", exclude={"batch_size", *(("anchor",) if train.anchor == "forget" else ())})


def _pairs_identity(pairs: PairsConfig, data: DataCheck | None, sample: int) -> dict[str, Any]:
    # `by` came later: nearest ones are told as before, and of others nothing is said that is for these alone.
    if pairs.by != "nearest":
        told: dict[str, Any] = {"by": pairs.by}
        if pairs.by == "random":
            told["resample"] = pairs.resample
        if pairs.by == "file":
            told["pairs"] = None if data is None else data.samples[sample].pairs
        return told
    later = {"by", "resample", "file", *(("overlap_fallback",) if pairs.overlap_fallback == "refuse" else ())}
    identity = pairs.model_dump(mode="json", exclude={"shards", "actors", "batch_size", "index", *later})
    identity["encoder"] = encoder_identity(pairs.encoder)
    if pairs.index == "approximate":
        # What an approximate search finds depends on the texts of all samples, among which its cells are made.
        identity["index"] = {"approximate": None if data is None else data.fingerprint}
    return identity


def _answers_identity(kind: str | None, config: SweepConfig, data: DataCheck | None, sample: int) -> dict[str, Any]:
    if kind == "alternates" and config.answers.alternates == "generated":
        # With model and rows, which stand beside it, this decides what is invented.
        return {"from": kind, "generated": config.answers.generation}
    # What can be drawn, whichever file it is from.
    return {"from": kind, "texts": None if data is None else data.samples[sample].answers.get(kind or "")}


def _heldout_texts(config: SweepConfig, data: DataCheck | None, model: ModelConfig, stop: StopConfig) -> dict[str, Any]:
    # Which texts they are decides when a text counts as forgotten. The corpus of a model made here says it already.
    if "heldout" not in (stop.ma, stop.el) or not isinstance(config.data, RecordsData) or model.made_here:
        return {}
    return {"heldout_texts": None if data is None else data.heldout_fingerprint}


def _corpus_of(model: ModelConfig, data: DataCheck | None) -> dict[str, Any]:
    # A model made here is trained on all rows of the sweep, so all of them are part of what it is.
    return {"corpus": None if data is None else data.fingerprint} if model.made_here else {}


def worker_group_of(trial: Trial) -> WorkerGroup:
    """What a trial claims."""
    model = trial.model
    cpus, gpus = float(model.cpus_per_worker), float(model.gpus_placed)
    return WorkerGroup(trial.trial_id, model.workers, trial.minutes, cpus, gpus)
