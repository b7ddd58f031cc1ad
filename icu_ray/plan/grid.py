"""From a config to a flat, ordered list of trials: what will run, under which name, and about how long.

    plan = make_plan(config, check_data(config))
    for trial in plan.trials: print(trial.name, trial.trial_id, trial.status)

Trials that are done are found in storage by their ids (trial.py); that is how a sweep resumes.
Nothing here imports Ray or torch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from icu_ray import methods
from icu_ray.config import MethodConfig, ModelConfig, SweepConfig
from icu_ray.data.corpus import DataCheck
from icu_ray.errors import UserError, did_you_mean
from icu_ray.methods import RETRAINED
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.plan.estimate_correction import corrected
from icu_ray.plan.schedule import WorkerGroup, by_work
from icu_ray.plan.search_objective import middle_of
from icu_ray.plan.trial import DONE, Trial, trial_of, worker_group_of
from icu_ray.storage.trial_files import TrialPaths, read_events, read_result, read_sweep, trial_ids

_READERS = 16


@dataclass(frozen=True)
class Plan:
    """All trials, most work first; `provisional` says that ids lack the data's fingerprint because it is not there."""

    config: SweepConfig
    trials: tuple[Trial, ...]
    data: DataCheck | None
    provisional: str = ""
    open_trials: int = 0
    """How many further trials a search will choose."""
    unreachable: str = ""
    """What no hub gives here, in words; a run that starts its own Ray is refused for it."""

    @property
    def subjects(self) -> Mapping[str, str]:
        """Whose data a target is, by its id, where the forget file says so."""
        return {} if self.data is None else self.data.subjects

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


def check_methods(config: SweepConfig) -> None:
    """UserError for a method that nobody knows."""
    known = methods.names()
    for number, method in enumerate(config.methods):
        if method.name == RETRAINED:
            raise UserError(
                f"methods.{number}: '{RETRAINED}' is no method of unlearning; set 'retrained: true' at a model that is "
                "trained here, or 'retrained: ID' to name a published one, which then gets that row"
            )
        if method.name not in known:
            raise UserError(
                f"methods: unknown method '{method.name}'{did_you_mean(method.name, known)}; known: {', '.join(known)}"
            )


def make_plan(config: SweepConfig, data: DataCheck | None, *, provisional: str = "") -> Plan:
    """Expand the grid, name every trial, read its status from storage and put the largest first."""
    check_methods(config)
    if data is not None:
        paired = [m.name for m in config.methods if any(needs_pairs(m, a, b) for a, b in methods.cells(m))]
        data.require_pool(paired)
        _refuse_no_gold_standard(config, data)
    _refuse_unknown_models(config)
    _refuse_several_forget_sets(config)
    if config.search is not None:
        return _search_plan(config, data, provisional)
    trials: dict[str, Trial] = {}
    fingerprints = {model.name: model_fingerprint(model, config.chats) for model in config.models}
    for model in config.models:
        for sample in config.samples:
            for method in _methods_of(model, config):
                for (alpha, beta), lr, seed in itertools.product(_cells(method), method.lrs, _seeds(method, config)):
                    identity = fingerprints[model.name]
                    trial = trial_of(config, data, model, identity, sample, method, alpha, beta, seed, lr)
                    if trial.trial_id in trials:
                        raise UserError(
                            f"methods: trials {trials[trial.trial_id].name} and {trial.name} are one and the same cell "
                            "(equal model, sample, method, weights and learning rate); remove one"
                        )
                    trials[trial.trial_id] = trial
    with_status = corrected(_with_statuses(_told_apart(trials), config))
    ordered = sorted(with_status, key=lambda trial: by_work(worker_group_of(trial)))
    return Plan(config, tuple(ordered), data, provisional)


def searched_trial(plan: Plan, values: Mapping[str, float]) -> Trial:
    """The trial of a search at these values (alpha, beta, lr), to three digits; what is not given is the config's."""
    config, (model,), (method,) = plan.config, plan.config.models, plan.config.methods
    kept = {name: float(f"{value:.3g}") for name, value in values.items()}
    alpha, beta = methods.cells(method)[0]
    lr = kept.get("lr", model.lr or config.optim.lr)
    model = model.model_copy(update={"lr": lr})
    identity, sample = model_fingerprint(model, config.chats), config.samples[0]
    cell = kept.get("alpha", alpha), kept.get("beta", beta)
    trial = trial_of(config, plan.data, model, identity, sample, method, *cell)
    return replace(trial, name=f"{trial.name}-lr{lr:g}") if "lr" in kept else trial


def trials_now(plan: Plan) -> tuple[Trial, ...]:
    """The plan's trials, with those that a search has chosen since it was made."""
    return plan.trials if plan.config.search is None else make_plan(plan.config, plan.data).trials


def claims_of(plan: Plan, trials: Iterable[Trial]) -> dict[str, WorkerGroup]:
    """The worker group of each model among these trials, and of those that a search will choose."""
    coming = () if plan.config.search is None or not plan.open_trials else (coming_trial(plan),)
    return {trial.model.name: worker_group_of(trial) for trial in (*trials, *coming)}


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
    if method.lr is not None:
        raise UserError("methods.0.lr: a search starts from optim.lr, or chooses in search.space.lr; leave it out")
    if model.retrained:
        raise UserError("search: its trials are compared with each other alone; leave out models.0.retrained")
    known = methods.method_class(method.name)
    used = {"alpha": known.alpha_counts(method.settings), "beta": known.uses_beta}
    unused = [name for name, counts in used.items() if not counts]
    if known.fine_tunes:
        raise UserError(f"search: {method.name} takes its own settings, and a search sets none of them; give it a grid")
    for name in search.space:
        if name in unused:
            raise UserError(f"search.space: {method.name} does not use {name}; leave it out")
    if not (known.trains and model.unlearn):
        raise UserError("search: there is nothing to search for a model from which nothing is unlearned")
    if data is not None and data.heldout == 0:
        raise UserError(
            "search: its objective needs held-out rows, and data has none; set data.heldout (or heldout_rows)"
        )
    epochs = config.epochs_of(model, method)
    if search.stop_early and search.grace_epochs > epochs:
        raise UserError(f"search.grace_epochs: {search.grace_epochs} are more than the {epochs} epochs of a trial")


_AS_IT_IS, _RETRAINED = MethodConfig(name="original"), MethodConfig(name=RETRAINED)


def _methods_of(model: ModelConfig, config: SweepConfig) -> tuple[MethodConfig, ...]:
    """What is run on a model."""
    gold = (_RETRAINED,) if model.retrained else ()
    if not model.unlearn:
        return (_AS_IT_IS, *gold)
    own = (method for method in config.methods if method.models is None or model.name in method.models)
    return (*own, *gold)


def _cells(method: MethodConfig) -> tuple[tuple[float, float], ...]:
    """The method's cells, those that differ only in a weight it does not use taken once (as 0)."""
    known = methods.method_class(method.name)
    uses_alpha = known.alpha_counts(method.settings)
    cells = [(a if uses_alpha else 0.0, b if known.uses_beta else 0.0) for a, b in methods.cells(method)]
    return tuple(dict.fromkeys(cells)) if not (uses_alpha and known.uses_beta) else tuple(cells)


def _seeds(method: MethodConfig, config: SweepConfig) -> tuple[int, ...]:
    """The seeds of a method's trials; a model that is not trained is the same with each, in whatever order they stand.

    It then has the default one if that is listed, so that the trial is found again when another seed is added.
    """
    seeds = config.all_seeds
    if methods.method_class(method.name).trains:
        return seeds
    usual = SweepConfig.model_fields["seed"].default
    return (usual if usual in seeds else min(seeds),)


def _refuse_unknown_models(config: SweepConfig) -> None:
    trained = [model.name for model in config.models if model.unlearn]
    for number, method in enumerate(config.methods):
        for name in method.models or ():
            if name not in trained:
                raise UserError(
                    f"methods.{number}.models: '{name}' is none of the models from which something is unlearned"
                    f"{did_you_mean(name, trained)}; expected some of {', '.join(trained) or 'none'}"
                )


def _refuse_several_forget_sets(config: SweepConfig) -> None:
    """A published retrained model has not read one forget set, and may have read any other."""
    for number, model in enumerate(config.models):
        if isinstance(model.retrained, str) and len(config.samples) > 1:
            raise UserError(
                f"models.{number}.retrained: {model.retrained} was trained without one forget set, found samples="
                f"{list(config.samples)}; expected one sample"
            )


def _refuse_no_gold_standard(config: SweepConfig, data: DataCheck) -> None:
    """Without its forget sample a model must have something left to learn."""
    for number, model in enumerate(config.models):
        if model.retrained is not True or (model.train is not None and model.train.data is not None):
            continue
        for sample, counts in data.samples.items():
            if counts.pool == 0:
                raise UserError(
                    f"models.{number}.retrained: without forget sample {sample} nothing is left to train {model.name} "
                    "on; give data.pool, or leave out 'retrained'"
                )


def needs_pairs(method: MethodConfig, alpha: float, beta: float) -> bool:
    """Whether a method with these weights trains on pairs."""
    made = methods.get(method.name, alpha=alpha, beta=beta, settings=method.settings, step=method.step)
    return made.needs_pairs


def _told_apart(trials: Mapping[str, Trial]) -> dict[str, Trial]:
    """The trials, those of equal names called by the keys in which they differ, too."""
    alike: dict[str, list[Trial]] = {}
    for trial in trials.values():
        alike.setdefault(trial.name, []).append(trial)
    names: dict[str, str] = {}
    for group in alike.values():
        told = {t.trial_id: {**t.hyperparameters, **t.settings.stop.model_dump(exclude_none=True)} for t in group}
        keys = dict.fromkeys(key for each in told.values() for key in each)
        varied = [key for key in keys if len({repr(each.get(key)) for each in told.values()}) > 1]
        for trial_id, each in told.items():
            names[trial_id] = trials[trial_id].name + "".join(f"-{key}{each[key]}" for key in varied if key in each)
    for name, count in Counter(names.values()).items():
        if count > 1:
            raise UserError(f"methods: two trials would be called {name}; give one of the methods a 'label' of its own")
    return {trial_id: replace(trial, name=names[trial_id]) for trial_id, trial in trials.items()}


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
