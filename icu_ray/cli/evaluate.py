"""icu-ray evaluate: what a model still can do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from icu_ray.cli.command import add_asked_models, add_command, positive
from icu_ray.console.verbosity import bar, teller
from icu_ray.errors import UserError


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = add_command(
        commands,
        "evaluate",
        "Classification, dialogue, perplexity and the field's benchmarks of any causal LM; what was evaluated before "
        "is not evaluated again.",
        "icu-ray evaluate --model EleutherAI/gpt-neo-125m --suite lm_eval icu --mirror mirror --limit 100",
        _evaluate,
        progress=True,
    )
    add_asked_models(parser, precision=None, precision_default="that of the config's models, else fp32")
    parser.add_argument(
        "--suite",
        nargs="+",
        default=[],
        metavar="NAME",
        help="groups of tasks: lm_eval (nine of lm-eval's), icu (the paper's), quick (small, made up here) or "
        "benchmark (with --config); 'icu-ray list tasks' names them (default: lm_eval; none with --tasks or --config)",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ask what the benchmark of a config's data asks, with that config's rows, conventions and precision: the "
        "config's name or file, and what to change in it, such as tofu_small data.folder=tofu "
        "(default: none)",
    )
    parser.add_argument(
        "--tasks",
        default="",
        metavar="A,B",
        help="further tasks, separated by commas: of a suite, any of lm-eval's, also its groups, or a YAML file "
        "(default: none)",
    )
    parser.add_argument(
        "--mirror",
        type=Path,
        metavar="DIR",
        help="folder of 'icu-ray data mirror' with the tasks' rows (default: the config's, else the hub)",
    )
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="only this many documents of each task (default: the config's, else all)",
    )
    parser.add_argument(
        "--fidelity",
        choices=("default", "reference"),
        help="of dialogues that are too long, default cuts the beginning, reference the end, as the paper's authors do "
        "(default: the config's, else default)",
    )
    parser.add_argument(
        "--documents",
        type=Path,
        metavar="FILE",
        help="write every document's result to this .parquet (default: do not)",
    )
    parser.add_argument(
        "--trust-task-code", action="store_true", help="run code that a task's YAML file names (default: refuse)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _evaluate(arguments: argparse.Namespace) -> int:
    teller(terminal_only=True)("looking at the models and the tasks ...")
    from icu_ray.evaluation.kinds.dialogue import Keep
    from icu_ray.evaluation.stage.results import write_documents
    from icu_ray.evaluation.suites import Options, tasks_of
    from icu_ray.evaluation.sweep_tasks import names_with_benchmark
    from icu_ray.services.evaluate import asked_of, evaluate, evaluations_json
    from icu_ray.storage.results import finite

    tasks = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    suites = arguments.suite or ([] if tasks or arguments.config else ["lm_eval"])
    if "benchmark" in suites and not arguments.config:
        raise UserError("--suite benchmark: give --config NAME, whose data are the benchmark's, such as tofu")
    asked = asked_of(arguments.config[0], arguments.config[1:]) if arguments.config else None
    benchmark = None if asked is None else asked.benchmark
    others = tasks_of([suite for suite in suites if suite != "benchmark"], tasks)
    names, groups = names_with_benchmark(benchmark, others)
    given = Options() if asked is None else Options(mirror=asked.mirror, limit=asked.limit, keep=asked.keep)
    keep: dict[str | None, Keep] = {None: given.keep, "default": "end", "reference": "start"}
    options = Options(
        mirror=arguments.mirror or given.mirror,
        limit=arguments.limit or given.limit,
        keep=keep[arguments.fidelity],
        trust_task_code=arguments.trust_task_code,
        benchmark=benchmark,
        groups=groups,
    )
    precision = arguments.precision or ("fp32" if asked is None else asked.precision(arguments.model))
    # Ray's own words go to a file meanwhile.
    with bar(above=False):
        evaluations = evaluate(
            arguments.model,
            names,
            options,
            storage=arguments.storage,
            precision=precision,
            revision=arguments.revision,
            trust_remote_code=arguments.trust_remote_code,
        )
    found = evaluations_json(evaluations, groups)
    if arguments.documents is not None:
        write_documents(evaluations, arguments.documents)
    if arguments.json:
        print(json.dumps(finite(found)))
    else:
        _print(found)
    return 1 if any(model["errors"] for model in found) else 0


def _print(found: list[dict[str, Any]]) -> None:
    """A row a metric, a column a model; fractions in per cent."""
    names = list(dict.fromkeys(name for model in found for name in model["metrics"]))
    wide = max([len(name) for name in names], default=6)
    columns = [max(12, len(model["model"])) for model in found]
    cells = " ".join(f"{model['model']:>{width}}" for model, width in zip(found, columns, strict=True))
    print(f"{'':<{wide}} {cells}")
    for name in names:
        values = [model["metrics"].get(name) for model in found]
        cells = " ".join(f"{_shown(name, value):>{width}}" for value, width in zip(values, columns, strict=True))
        print(f"{name:<{wide}} {cells}")
    for model in found:
        for task, error in model["errors"].items():
            print(f"{model['model']}: {task} failed: {error}")


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    is_fraction = name.endswith(("_acc", "_acc_norm", "_f1", "avg", "_exact_match"))
    if is_fraction:
        return f"{100 * value:.2f} %"
    # As a benchmark's users print its numbers.
    return f"{value:.3g}" if name.partition("/")[0] in ("tofu", "muse", "rwku") else f"{value:,.2f}"
