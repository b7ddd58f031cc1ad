"""Whether a model can be asked a benchmark's prompts, told before anything starts.

    remarks = check_prompts(config, dry_run=False)      # evaluation.suites: [benchmark]

The prompts are written as the evaluation writes them, by the model's own tokenizer. Where that is not at hand, which
model cannot be asked is found when it is: a stand-in has none before it is trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.data.hub_data import is_hub_data
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.definition import PromptSet
from icu_ray.evaluation.benchmarks.rows import benchmark_of, sets_of, table_place
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked, benchmark_task, set_of, task_names
from icu_ray.evaluation.model_requests import Measure
from icu_ray.evaluation.sweep_tasks import benchmark_asked
from icu_ray.models.hub import folder_here
from icu_ray.plan.text_lengths import can_be_had, positions_in

COUNTED = 40
"""Rows of a set that are counted in tokens: those with most letters. All of TOFU's would take ten seconds."""


def check_prompts(config: SweepConfig, *, dry_run: bool = False) -> tuple[str, ...]:
    """UserError for a model that cannot be asked what `evaluation.suites: [benchmark]` asks; what else must be said.

    Refused: a model without a chat template where a set is written by it, prompts that leave less room than an answer
    may take, and rows that are longer than what the model reads. dry_run: a tokenizer is loaded only where the plan
    loads it for the texts too, and rows are read only of files.
    """
    asked = benchmark_asked(config)
    if asked is None:
        return ()
    names = task_names(asked)
    by_template = _by_template(asked)
    remarks = []
    for model in config.models:
        if model.source is None:
            if by_template is not None:
                raise _no_template(asked, by_template, f"model {model.name} is a stand-in, whose tokenizer has none")
            continue
        reads = config.rows.long != "cut" or getattr(config.data, "prompted", False)
        here = folder_here(model.source, model.revision)
        if by_template is not None and here is not None and _lacks_template(here):
            raise _no_template(asked, by_template, f"the tokenizer of {model.name} ({model.source}) has none")
        if dry_run and not reads:
            continue
        if here is None and not (reads and can_be_had(model.source, model.revision)):
            if names:
                remarks.append(
                    f"{model.name}: its tokenizer is not here, so whether it can read what the benchmark asks is not "
                    "known yet."
                )
            continue
        counted = [name for name in names if not dry_run or _in_files(asked, name)]
        remarks += check_model(asked, model, config.evaluation.limit, counted)
    return tuple(remarks)


def _by_template(asked: BenchmarkAsked) -> PromptSet | None:
    """The first set that is written by the models' chat templates."""
    return next((each for each in sets_of(asked.section) if _is_chat(asked, each)), None)


def _is_chat(asked: BenchmarkAsked, each: PromptSet) -> bool:
    return each.kind == "questions" and asked.style(each).chat


def _no_template(asked: BenchmarkAsked, each: PromptSet, found: str) -> UserError:
    benchmark = benchmark_of(asked.section)
    ours = "" if each.style else "data.template: question-answer, or "
    return UserError(
        f"evaluation.suites: benchmark: {benchmark.title} asks its set {each.name} by the model's chat template, and "
        f"{found}; expected {ours}a model whose tokenizer has a chat template"
    )


def _lacks_template(folder: Path) -> bool:
    """Whether a tokenizer's files, all of them there, name no chat template. False where other code may make one."""
    told = folder / "tokenizer_config.json"
    if not told.is_file() or any(folder.glob("*.jinja")) or any(folder.glob("additional_chat_templates/*")):
        return False
    if (folder / "chat_template.json").is_file() or (folder / "adapter_config.json").is_file():
        return False
    try:
        settings = json.loads(told.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # what is wrong with it, checking the model tells
        return False
    return isinstance(settings, dict) and not settings.get("chat_template") and "auto_map" not in settings


def _in_files(asked: BenchmarkAsked, name: str) -> bool:
    (each, _), benchmark = set_of(name, asked), benchmark_of(asked.section)
    tables = [benchmark.table(file) for file in (each.table, each.shots) if file]
    return not any(is_hub_data(table_place(asked.section, table)) for table in tables)


def check_model(
    asked: BenchmarkAsked, model: ModelConfig, limit: int | None = None, names: Sequence[str] | None = None
) -> list[str]:
    """UserError for a model that cannot be asked; what to say of prompts that are cut. Its tokenizer is loaded.

    model: one with a source. limit: rows of each set. names: of tasks; None: all that the benchmark asks.
    """
    from icu_ray.models.loading import load_tokenizer

    assert model.source is not None
    tokenizer = load_tokenizer(model.source, revision=model.revision, trust_remote_code=model.trust_remote_code)
    by_template = _by_template(asked)
    if by_template is not None and tokenizer.chat_template is None:
        raise _no_template(asked, by_template, f"the tokenizer of {model.source} has none")
    positions, remarks = positions_in(model.source, model.revision), []
    for name in task_names(asked) if names is None else names:
        task, each = benchmark_task(name, asked, limit, COUNTED).load(), set_of(name, asked)[0]
        lengths = [len(request.tokens) for request in task.ask(tokenizer)]
        _check_fits(f"evaluation.suites: benchmark: {name}", max(lengths, default=0), task.measure, model, positions)
        cut = sum(length >= each.max_length for length in lengths)
        may_be_cut = (
            asked.conventions.rows == "open_unlearning" and each.kind == "questions" and not _is_chat(asked, each)
        )
        if task.measure.kind == "greedy" and cut and may_be_cut:
            remarks.append(
                f"{name}: {cut} of the {len(lengths)} longest prompts fill {each.max_length} tokens of {model.name}, "
                "where OpenUnlearning cuts them, and what is asked last with them; evaluation.conventions: defined "
                "keeps them whole."
            )
    return remarks


def _check_fits(where: str, longest: int, measure: Measure, model: ModelConfig, positions: int | None) -> None:
    """UserError where a task's longest tokens are more than a model's positions."""
    if positions is None or longest + measure.max_new_tokens <= positions:
        return
    if measure.kind == "greedy":
        found = (
            f"its longest prompt has {longest} tokens in those of {model.name}, {longest + measure.max_new_tokens} "
            f"with an answer of at most {measure.max_new_tokens}"
        )
    else:
        found = f"its longest row has {longest} tokens in those of {model.name}"
    raise UserError(
        f"{where}: {found}, and this model reads {positions}; expected a model that reads as many, or no suite "
        "benchmark"
    )
