"""icu-ray list: the methods, configs, tasks, measures, benchmarks and attacks that there are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from icu_ray.cli.command import add_command
from icu_ray.console.terminal import columns, wrapped

Listing = tuple[Sequence[str], Sequence[Sequence[str]], str]
"""Headings, rows, and what is said below them."""


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "list",
        "The methods, shipped configs, evaluation tasks, measures, benchmarks or attacks that there are.",
        "icu-ray list methods",
        _list,
    )
    parser.add_argument("what", choices=tuple(_LISTINGS), help="what to list")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _list(arguments: argparse.Namespace) -> int:
    headings, rows, below = _LISTINGS[arguments.what]()
    if arguments.json:
        print(json.dumps([dict(zip(headings, row, strict=True)) for row in rows], ensure_ascii=False))
    else:
        print(f"{columns(rows, headings)}\n\n{wrapped(below)}")
    return 0


def _methods() -> Listing:
    from icu_ray import methods

    rows = []
    for name in methods.names():
        about = methods.described(name)
        rows.append((name, about.weights, about.summary))
    below = (
        "alpha weighs learning the pairs, beta staying near the original model; a weight that is not listed is not "
        "used. Run one with 'icu-ray unlearn --method NAME', or name it under 'methods' in a config."
    )
    return ("method", "weights", "what it does"), rows, below


def _configs() -> Listing:
    from icu_ray.config.shipped import config_summary, shipped_configs

    rows = [(name, config_summary(name)) for name in shipped_configs()]
    return ("config", "what it runs"), rows, "Look at one with 'icu-ray plan NAME', run it with 'icu-ray sweep NAME'."


def _tasks() -> Listing:
    from icu_ray.evaluation.suites import DIALOGUES, PERPLEXITIES, SUITES

    kinds = {**dict.fromkeys(DIALOGUES, "dialogue"), **dict.fromkeys(PERPLEXITIES, "perplexity")}
    kinds |= {"quick_dialogue": "dialogue", "quick_heldout": "perplexity"}
    rows = [(name, kinds.get(name, "classification"), suite) for suite, names in SUITES.items() for name in names]
    below = (
        "A suite is asked for with --suite NAME or evaluation.suites=[NAME], a single task with --tasks NAME or "
        "evaluation.tasks=[NAME]. Any other task of lm-evaluation-harness goes by its name there ('lm-eval ls tasks'), "
        "one of your own by its YAML file."
    )
    return ("task", "kind", "suite"), rows, below


def _measures() -> Listing:
    from icu_ray.report.numbers.columns import ALL_COLUMNS, MORE_MEASURES

    rows = [(c.heading, c.better, c.meaning) for c in (*ALL_COLUMNS, *MORE_MEASURES)]
    return ("measure", "better", "what it is"), rows, "What was not measured stays empty in every table."


def _benchmarks() -> Listing:
    from icu_ray.evaluation.benchmarks import BENCHMARKS
    from icu_ray.evaluation.benchmarks.published import shown

    rows = []
    for name, each in BENCHMARKS.items():
        known = [table.rows for table in each.tables if table.rows is not None and not table.later]
        size = f"{len(each.tables)} tables" + (f", {sum(known):,} rows" if known else "")
        models = {
            shown(model): None for split in each.splits.values() for model in (split.models or {}).values()
        }  # a target may stand in several splits
        rows.append(
            (name, ", ".join(each.splits), size, each.licence, ", ".join(each.reported), ", ".join(models) or "-")
        )
    below = (
        "A config names one under 'data', {source: tofu, split: forget10}; 'icu-ray explain data' says the keys. "
        "'icu-ray data fetch NAME' writes its files into a folder for 'data.folder'. "
        "Published models are for 'models.N.source' (the target) and 'models.N.retrained' (trained without what is "
        "to be forgotten); MODEL stands for the base model's name, such as Llama-3.2-1B-Instruct."
    )
    return ("benchmark", "splits", "size", "licence", "reports", "published models"), rows, below


def _attacks() -> Listing:
    from icu_ray.audit.registry import SUMMARIES

    below = (
        "Attack every model of a sweep with audit.attacks=[NAME] or [all], or one model with 'icu-ray audit --attacks "
        "NAME'."
    )
    return ("attack", "what it does"), list(SUMMARIES.items()), below


_LISTINGS: dict[str, Callable[[], Listing]] = {
    "methods": _methods,
    "configs": _configs,
    "tasks": _tasks,
    "measures": _measures,
    "benchmarks": _benchmarks,
    "attacks": _attacks,
}
