"""What an audit asks of the models of a sweep, and about how long that takes; so for the quick attack of each epoch.

    for said in audit_said(plan): ...         # 'The audit asks at most: 1,440 forward passes, 11,520 answers (...) ...'

Counted from the config by what docs/how-to/audit.md says of each attack. These are upper bounds: an answer that ends
early, and a prompt that a row does not have, are counted all the same. What is in the store already is not looked up.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from icu_ray.audit.recite import LONGEST_ANSWER, SLACK
from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.config.auditing import AttackName
from icu_ray.methods import RETRAINED
from icu_ray.plan.audit_checks import no_controls
from icu_ray.plan.estimates import parameters_of
from icu_ray.plan.grid import Plan, coming_trial
from icu_ray.plan.machine_speed import core_flops, gpu_flops
from icu_ray.plan.models_here import layers_of
from icu_ray.plan.trial import Trial

PROMPTS, QUANTISED, SCALES, SOURCES = 12, 5, 3, 3
"""Prompts of a row (its paraphrases are added), weights of quantise with those as they are, scales of an adapter, and
what relearn trains on."""
LAYER_SECONDS = 0.001
"""The least that a layer of one forward takes, however small the model and the batch, on a core and on a GPU."""
ANSWERS_AT_ONCE, SAMPLES_AT_ONCE = 256, 400
"""Of greedy answers as metrics/rouge.py has them; of drawn ones about what the caches of attack sample allow."""
DRAWN_SECONDS = 1e-4
"""Of a drawn token besides, with the scores of what was said: measured on a core with a model of two layers."""
USUAL_LAYERS = 24


@dataclass(frozen=True)
class Asked:
    """What one attack or several ask: forward passes over whole rows; answers, of `tokens` in all; steps of training.

    seconds: of one worker.
    """

    forwards: int = 0
    answers: int = 0
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0

    def __add__(self, other: Asked) -> Asked:
        return Asked(
            self.forwards + other.forwards,
            self.answers + other.answers,
            self.tokens + other.tokens,
            self.steps + other.steps,
            self.seconds + other.seconds,
        )

    def times(self, often: int) -> Asked:
        """So many of it."""
        return Asked(
            often * self.forwards, often * self.answers, often * self.tokens, often * self.steps, often * self.seconds
        )

    def said(self) -> str:
        """The counts in words, those that are not 0."""
        parts = [f"{self.forwards:,} forward passes"] if self.forwards else []
        parts += [f"{self.answers:,} answers ({self.tokens:,} tokens)"] if self.answers else []
        parts += [f"{self.steps:,} steps of training"] if self.steps else []
        return ", ".join(parts)


@dataclass(frozen=True)
class AuditCost:
    """Of a sweep's audit. models: audits, of originals and trials. attacks: of all of them together, by attack.

    gpu: whether its workers have GPUs.
    """

    models: int
    attacks: Mapping[str, Asked]
    gpu: bool

    @property
    def whole(self) -> Asked:
        """All attacks together."""
        return functools.reduce(Asked.__add__, self.attacks.values(), Asked())


def audit_cost(plan: Plan) -> AuditCost | None:
    """None where no audit is asked for, or the rows are not known yet."""
    if not plan.config.audit.asked or plan.data is None:
        return None
    found: Counter[tuple[str, int]] = Counter()
    models = {}
    for trial, often in _trials(plan):
        models[trial.model.name] = trial.model
        trained = trial.settings.max_epochs > 0 or trial.settings.method == RETRAINED
        found[trial.model.name, trial.sample] += often * trained
    attacks: dict[str, Asked] = {}
    for (name, sample), trials in found.items():
        for attack, asked in _of_model(plan, models[name], sample):
            attacks[attack] = attacks.get(attack, Asked()) + asked.times(trials + 1)
    gpu = any(model.gpus for model in models.values())
    return AuditCost(sum(found.values()) + len(found), attacks, gpu)


def _trials(plan: Plan) -> list[tuple[Trial, int]]:
    """All trials, and how many of each: those that a search is still to choose are like the one that comes next."""
    coming = [(coming_trial(plan), plan.open_trials)] if plan.config.search is not None and plan.open_trials else []
    return [*((trial, 1) for trial in plan.trials), *coming]


def audit_said(plan: Plan) -> list[str]:
    """Sentences for the dry run; none without an audit."""
    found, said = audit_cost(plan), []
    if found is not None and found.whole.said():
        attacks = sorted(found.attacks.items(), key=lambda each: -each[1].seconds)
        most, asked = attacks[0]
        share = f", {100 * asked.seconds / found.whole.seconds:.0f} % of it for {most}" if len(attacks) > 1 else ""
        unit = "GPU" if found.gpu else "worker"
        said.append(
            f"The audit asks at most: {found.whole.said()}; roughly {_hours(found.whole.seconds)} {unit} hours"
            f"{share}, not in the estimate."
        )
    elif plan.config.audit.asked and found is None:
        said.append("What the audit asks is not known before the texts are here; it is not in the estimate.")
    return said + quick_said(plan)


def audit_json(plan: Plan) -> dict[str, Any] | None:
    """The same for scripts: counts in all and by attack, hours; None without an audit."""
    found = audit_cost(plan)
    if found is None:
        return None

    def told(asked: Asked) -> dict[str, Any]:
        counts = {"forwards": asked.forwards, "answers": asked.answers, "tokens": asked.tokens, "steps": asked.steps}
        return {**counts, "hours": round(asked.seconds / 3600, 4)}

    attacks = {name: told(asked) for name, asked in found.attacks.items()}
    return {"models": found.models, **told(found.whole), "attacks": attacks}


def quick_said(plan: Plan) -> list[str]:
    """What the quick attack asks after each epoch, where one is asked for (stop.audited, search.objective)."""
    if plan.data is None:
        return []
    attacked = [trial for trial, _ in _trials(plan) if trial.settings.leak is not None]
    said: dict[str, None] = {}
    for trial in attacked:
        rows = plan.data.samples[trial.sample].targets
        asked = _Speed(plan.config, trial.model).asked(forwards=3 * rows, answers=rows)
        told = f"After each epoch a quick attack asks {trial.model.name} at most: {asked.said()}; {_seconds(asked)}."
        said[told] = None
    return list(said)


def _seconds(asked: Asked) -> str:
    return f"roughly {asked.seconds:.0f} s of one worker" if asked.seconds >= 1 else "less than a second or so"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return "less than 0.01" if hours < 0.005 else f"{hours:.2f}" if hours < 1 else f"{hours:,.1f}"


@dataclass(frozen=True)
class _Speed:
    """How fast a worker of a model's is."""

    config: SweepConfig
    model: ModelConfig

    @property
    def answer(self) -> int:
        """Tokens that an answer may have; of prompts and completions that of a row with the shortest prompt."""
        columns = self.config.columns
        secret = columns.length - (1 if self.config.data.prompted else columns.suffix_start)
        return min(secret, LONGEST_ANSWER) + SLACK

    def asked(
        self, *, forwards: int = 0, answers: int = 0, steps: int = 0, batch: int = 0, prompts: int | None = None
    ) -> Asked:
        """batch: rows of a step. prompts: of the answers, where several share one; they are drawn together then.

        2 operations a parameter and token, 6 in training; each forward takes LAYER_SECONDS a layer or more.
        """
        length, tokens = self.config.columns.length, answers * self.answer
        read = forwards + (answers if prompts is None else prompts)
        operations = 2 * parameters_of(self.model) * (read * length + tokens + 3 * steps * batch * length)
        share = min(1, self.model.gpus) or self.model.cpus_per_worker
        rate = (gpu_flops() if self.model.gpus else core_flops()) * share
        together = ANSWERS_AT_ONCE if prompts is None else SAMPLES_AT_ONCE
        passes = math.ceil(answers / together) * self.answer + math.ceil(forwards / together) + 3 * steps
        layers = layers_of(self.model, self.config) or USUAL_LAYERS
        seconds = operations / rate + passes * layers * LAYER_SECONDS
        seconds += 0 if prompts is None else tokens * DRAWN_SECONDS
        return Asked(forwards, answers, tokens, steps, seconds)


def _of_model(plan: Plan, model: ModelConfig, sample: int) -> Iterator[tuple[AttackName, Asked]]:
    """What each attack asks of one model on one sample's rows."""
    assert plan.data is not None
    audit, data = plan.config.audit, plan.data.samples[sample]
    forget = data.targets if audit.rows is None else min(audit.rows, data.targets)
    control = 0 if no_controls(plan.config, model) else min(audit.control, plan.data.heldout)
    kin, rows = min(audit.kin, data.pool), forget + control
    ask, beside = _Speed(plan.config, model).asked, 2 if model.retrained else 1
    for name in audit.names:
        if name == "prefix_search":
            yield name, ask(forwards=rows)
        elif name == "membership":
            yield name, ask(forwards=rows * beside)
        elif name == "neighbours":
            yield name, ask(forwards=forget + 3 * kin)
        elif name == "depth" and model.retrained:
            yield name, ask(forwards=2 * (layers_of(model, plan.config) or USUAL_LAYERS) * forget)
        elif name == "adapter_off" and model.lora is not None:
            yield name, ask(answers=SCALES * rows)
        elif name == "quantise":
            yield name, ask(forwards=QUANTISED * rows, answers=QUANTISED * rows)
        elif name == "prompt":
            yield name, ask(answers=PROMPTS * rows)
        elif name == "sample":
            drawn = len(audit.sample.temperatures) * rows
            yield name, ask(answers=audit.sample.samples * drawn, prompts=drawn)
        elif name == "relearn":
            yield name, _relearn(plan.config, _Speed(plan.config, model), forget, control, kin).times(beside)


def _relearn(config: SweepConfig, speed: _Speed, forget: int, control: int, kin: int) -> Asked:
    """Of each source all steps, and the rows that it asks at each budget and before; 'own' teaches half of the rows."""
    settings, asked = config.audit.relearn, Asked()
    for source in ("own", "kin", "other"):
        left = forget - max(1, round(forget / 2)) if source == "own" else forget
        if left > 0 and (source != "kin" or kin):
            often = (len({0, *settings.steps})) * (left + control)
            steps = max(settings.steps)
            asked += speed.asked(forwards=often, answers=often, steps=steps, batch=settings.batch_size)
    return asked
