"""How long a sweep works beside its trials: to train its models first, and to ask all of them what a benchmark asks.

trainings(plan)              # of each model that is fine-tuned: for its trials, and again without each forget sample
evaluation_times(plan)       # of each model: its original and what its trials leave

Fine-tuning is counted from rows, epochs and parameters as trials are, and may be off as they are. An evaluation is
counted at its most: every row is read with its prompt, at the speed of training, and every answer that is generated is
as long as it may be. On one core two random models (5.8 and 88 million parameters, 40 and 4 rows of TOFU's sets), whose
answers do not end early, took 0.62 and 0.73 of it; on a GPU it was not held against any run. What is not counted is
named (`EvaluationTime.untold`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icu_ray.config import ModelConfig, RecordsData
from icu_ray.data.hub_data import is_hub_data
from icu_ray.evaluation.benchmarks.definition import PromptSet
from icu_ray.evaluation.benchmarks.rows import benchmark_of, set_rows, shots_of, split_of, table_place
from icu_ray.evaluation.benchmarks.tasks import GRADIENT, SAID, BenchmarkAsked, set_of, task_names
from icu_ray.evaluation.model_requests import SLICE_REQUESTS
from icu_ray.evaluation.sweep_tasks import benchmark_asked
from icu_ray.methods import RETRAINED
from icu_ray.plan.estimates import parameters_of, training_minutes
from icu_ray.plan.generated_answers import STEP_SECONDS
from icu_ray.plan.grid import Plan
from icu_ray.plan.machine_speed import core_flops, gpu_flops

CHARACTERS_A_TOKEN = 3.0
"""A small tokenizer's on English; a large one has four."""
_CHAT_TOKENS, _TAG_TOKENS = 40, 10
"""Around a question and its answer: a chat's system text, date and marks; tags and ends."""
_WEIGHTS_READ = {"cpu": 1.2e9, "gpu": 5e11}
"""Parameters a second that a step of a generation reads at least, however few rows it has."""
_BACKWARD = 3
"""What a row's gradient takes, in forwards."""


@dataclass(frozen=True)
class Training:
    """Of one model before its trials. times: how often; minutes: of all of them, by the clock."""

    model: ModelConfig
    times: int
    minutes: float

    @property
    def gpu_hours(self) -> float:
        """0 on CPUs."""
        return self.model.workers * self.model.gpus * self.minutes / 60

    @property
    def worker_minutes(self) -> float:
        """0 on GPUs."""
        return 0.0 if self.model.gpus else self.model.workers * self.minutes


def trainings(plan: Plan) -> tuple[Training, ...]:
    """Of each model with waiting trials that is fine-tuned; what of it is in the store already is not looked up."""
    if plan.data is None:
        return ()
    counts, found = plan.data.samples.values(), []
    others = sum(each.targets for each in counts) if isinstance(plan.config.data, RecordsData) else 0
    rows = max(max(each.targets, others) + each.pool for each in counts)
    for model in dict.fromkeys(trial.model for trial in plan.waiting):
        if model.train is not None:
            times = 1 + (len(counts) if model.retrained is True else 0)
            found.append(Training(model, times, training_minutes(model, plan.config, rows) * times))
    return tuple(found)


@dataclass(frozen=True)
class EvaluationTime:
    """Of one model and what its waiting trials make of it, `models` in all.

    minutes: of one core or GPU, at most; None: nothing could be counted. untold: what is asked and not counted.
    """

    model: ModelConfig
    models: int
    minutes: float | None
    untold: tuple[str, ...]

    @property
    def gpu_hours(self) -> float:
        """0 on CPUs."""
        return (self.minutes or 0.0) / 60 if self.model.gpus else 0.0

    @property
    def worker_minutes(self) -> float:
        """0 on GPUs."""
        return 0.0 if self.model.gpus else self.minutes or 0.0


def evaluation_times(plan: Plan) -> tuple[EvaluationTime, ...]:
    """Of each model with waiting trials; () where nothing is to be evaluated."""
    config = plan.config
    if not config.evaluation.asked:
        return ()
    asked = benchmark_asked(config)
    others = [f"suite {name}" for name in config.evaluation.suites if name != "benchmark"]
    others += [*config.evaluation.tasks, *(() if asked is None else split_of(asked.section).harness)]
    counted, unread = ([], []) if asked is None else _counted(asked, config.evaluation.limit)
    if unread:
        others.append(f"what is read of the hub ({', '.join(unread)})")
    found = []
    for model in dict.fromkeys(trial.model for trial in plan.waiting):
        own = [trial for trial in plan.waiting if trial.model == model]
        trained = sum(t.settings.max_epochs > 0 or t.settings.method == RETRAINED for t in own)
        if config.evaluation.by_epoch:
            trained += sum(max(0, trial.settings.max_epochs - 1) for trial in own)
        seconds = sum(each.seconds(model) for each in counted) if counted else None
        minutes = None if seconds is None else seconds * (trained + 1) / 60
        found.append(EvaluationTime(model, trained + 1, minutes, tuple(dict.fromkeys(others))))
    return tuple(found)


@dataclass(frozen=True)
class _Counted:
    """Of a task: tokens that are read, rows that speak and how long at most."""

    tokens: float
    rows: int = 0
    new_tokens: int = 0

    def seconds(self, model: ModelConfig) -> float:
        """Of one core or GPU: two operations a parameter and token; no token of a batch takes less than STEP_SECONDS,
        or than all weights take to be read."""
        parameters, rate = parameters_of(model), gpu_flops() if model.gpus else core_flops()
        each = 2 * parameters / rate
        steps = math.ceil(self.rows / SLICE_REQUESTS) * self.new_tokens
        step = max(STEP_SECONDS, parameters / _WEIGHTS_READ["gpu" if model.gpus else "cpu"])
        return self.tokens * each + max(steps * step, self.rows * self.new_tokens * each)


def _counted(asked: BenchmarkAsked, limit: int | None) -> tuple[list[_Counted], list[str]]:
    """Of each task whose rows are in files; and the names of those whose rows are on the hub."""
    counted, unread = [], []
    for name in task_names(asked):
        of, kind = set_of(name, asked)
        benchmark = benchmark_of(asked.section)
        tables = [benchmark.table(file) for file in (of.table, of.shots) if file]
        if any(is_hub_data(table_place(asked.section, table)) for table in tables):
            unread.append(name)
            continue
        rows = set_rows(asked.section, of)[:limit]
        before = sum(len(question) + len(answer) for question, answer in shots_of(asked.section, of))
        chat = of.kind == "questions" and asked.style(of).chat
        usual = before / CHARACTERS_A_TOKEN + (_CHAT_TOKENS if chat else _TAG_TOKENS)
        if kind == SAID:
            assert of.generation is not None
            read = sum(usual + _tokens(row[of.prompt]) for row in rows)
            counted.append(_Counted(read, len(rows), of.generation.new_tokens))
        else:
            read = sum(_read(row, of, usual, all_answers=kind != GRADIENT) for row in rows)
            counted.append(_Counted(read * (_BACKWARD if kind == GRADIENT else 1)))
    return counted, unread


def _read(row: Mapping[str, Any], of: PromptSet, usual: float, *, all_answers: bool) -> float:
    """Tokens of a row's forwards: its prompt with each answer."""
    answers: list[str] = [row[of.answer]]
    if all_answers:
        answers += [row[of.right]] if of.right not in (None, of.answer) else []
        answers += row[of.wrong] if of.wrong else ()
    prompt = usual + (_tokens(row[of.prompt]) if of.prompt else 0)
    tokens = [prompt + _tokens(answer) for answer in answers]
    return sum(tokens) if of.kind == "questions" else sum(min(each, of.max_length) for each in tokens)


def _tokens(text: str) -> float:
    return len(text) / CHARACTERS_A_TOKEN


def evaluation_said(found: Sequence[EvaluationTime]) -> list[str]:
    """How long evaluation takes, and what of it is not told, in a sentence each."""
    said = []
    if any(each.minutes is not None for each in found):
        hours, minutes = sum(each.gpu_hours for each in found), sum(each.worker_minutes for each in found)
        much = [f"{hours:.1f} GPU hours" if hours >= 0.05 else "0.1 GPU hours"] if hours else []
        much += [f"{max(minutes, 1):.0f} worker minute{'s' * (minutes >= 1.5)} on CPU"] if minutes else []
        said.append(
            f"Evaluation: at most about {' and '.join(much)}, by counted tokens; several times less where answers end "
            "early."
        )
    untold = dict.fromkeys(name for each in found for name in each.untold)
    if untold:
        said.append(f"No time is estimated for: {', '.join(untold)}.")
    return said
