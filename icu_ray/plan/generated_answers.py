"""Alternates that models are to invent (answers.alternates=generated): whether they can, and how long it takes.

check_generation(config, corpus)     # UserError for a question that leaves a model no place for an answer
generation_said(plan)                # "m: invents 5 alternates for each of 40 targets first; about 3 minutes."
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from icu_ray import methods
from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.data.alternates import asking_prompts, refuse_full_positions
from icu_ray.data.corpus import Corpus
from icu_ray.plan.estimates import parameters_of
from icu_ray.plan.grid import Plan, coming_trial
from icu_ray.plan.machine_speed import core_flops, gpu_flops
from icu_ray.plan.text_lengths import can_be_had, positions_in
from icu_ray.plan.trial import Trial

STEP_SECONDS = 0.03
"""The least that a forward takes, however small the model and the batch: one of 30 layers on a core or a GPU."""
TARGETS_AT_ONCE = {"cpu": 4, "gpu": 16}


def check_generation(config: SweepConfig, corpus: Corpus | None, *, dry_run: bool = False) -> None:
    """UserError for a target whose question, answer and instruction fill a model's positions.

    A stand-in has no tokenizer before it is trained; whoever asks it tells then. dry_run: a model that is not here is
    no reason to refuse.
    """
    if config.answers.alternates != "generated" or corpus is None or corpus.rows.boundaries is None:
        return
    from icu_ray.models.loading import load_tokenizer

    for model in config.models:
        source, revision = model.source, model.revision
        if source is None or not _asked(model, config) or (dry_run and not can_be_had(source, revision)):
            continue
        tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=model.trust_remote_code)
        for sample in config.samples:
            targets = corpus.to_forget(sample)
            prompts = asking_prompts(targets, tokenizer, config.answers.instruction)
            refuse_full_positions(targets.ids, prompts, positions_in(source, revision))


def _asked(model: ModelConfig, config: SweepConfig) -> bool:
    """Whether any method of the grid reads alternates of this model."""
    found = (
        methods.get(told.name, alpha=alpha, beta=beta, settings=told.settings)
        for told in config.methods
        if model.unlearn and (told.models is None or model.name in told.models)
        for alpha, beta in methods.cells(told)
    )
    return any(method.needs_alternates and method.answers == "alternates" for method in found)


@dataclass(frozen=True)
class Generation:
    """What one model invents before its trials. minutes: of one worker, where no alternate ends before its limit."""

    model: ModelConfig
    targets: int
    minutes: float

    @property
    def gpu_hours(self) -> float:
        """0 on CPUs."""
        return min(1, self.model.gpus) * self.minutes / 60

    @property
    def cpu_hours(self) -> float:
        """0 on GPUs."""
        return 0.0 if self.model.gpus else self.model.cpus_per_worker * self.minutes / 60


def generations(plan: Plan) -> tuple[Generation, ...]:
    """Of each model with waiting trials that read what it invents; what is in the store already is not looked up."""
    coming = [coming_trial(plan)] if plan.config.search is not None and plan.open_trials else []
    waiting = [trial for trial in (*plan.waiting, *coming) if invents(trial)]
    found = []
    for model in {trial.model.name: trial.model for trial in waiting}.values():
        samples = {trial.sample for trial in waiting if trial.model.name == model.name}
        counts = {} if plan.data is None else plan.data.samples
        targets = sum(counts[sample].targets for sample in samples if sample in counts)
        found.append(Generation(model, targets, _minutes(model, plan.config, targets)))
    return tuple(found)


def invents(trial: Trial) -> bool:
    """Whether a trial reads alternates that its model invents."""
    return "generated" in trial.identity.get("answers", {})


def _minutes(model: ModelConfig, config: SweepConfig, targets: int) -> float:
    """Two operations a parameter and token; one token of all alternates in work takes STEP_SECONDS or more."""
    settings, batch = config.answers, TARGETS_AT_ONCE["gpu" if model.gpus else "cpu"]
    rate = (gpu_flops() if model.gpus else core_flops()) * (min(1, model.gpus) or model.cpus_per_worker)
    asked = min(batch, max(targets, 1))
    step = max(STEP_SECONDS, 2 * parameters_of(model) * asked * settings.repeats / rate)
    reading = 2 * parameters_of(model) * targets * config.columns.length / rate
    return (math.ceil(targets / batch) * settings.max_new_tokens * step + reading) / 60


def generation_said(found: Sequence[Generation], config: SweepConfig) -> list[str]:
    """A sentence a model."""
    limits = (config.resources.max_hours, config.resources.max_cost)
    budget = "" if limits == (None, None) else ", which the budget does not count"
    said = []
    for each in found:
        several = "" if f"{each.minutes:.0f}" in ("0", "1") else "s"
        repeats = config.answers.repeats
        said.append(
            f"{each.model.name}: invents {repeats} alternate{'s' * (repeats != 1)} for each of {each.targets} targets "
            f"first; at most about {max(each.minutes, 1):.0f} minute{several}{budget}."
        )
    return said
