"""The suites, their tasks by name, and the means that the paper's table shows.

    sources = open_tasks(tasks_of(["icu"], ["boolq"]), Options(mirror=Path("mirror")))

lm_eval: the nine tasks as the harness defines them. icu: the same nine as the authors ask them, four dialogues and two
perplexities, in the authors' form and in the harness's. quick: on the quickstart's made-up records. Any other task of
the harness by its name, and a user's own by its YAML file. Metrics are called cls/hellaswag_acc, dialogue/wow_f1,
ppl/wikitext_icu and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icu_ray.errors import UserError, did_you_mean
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked, benchmark_task, task_names
from icu_ray.evaluation.definition import HARNESS_FILES, find_definition
from icu_ray.evaluation.groups import Group, groups_of, without_groups
from icu_ray.evaluation.kinds.dialogue import Keep, dialogue_task, task_of
from icu_ray.evaluation.kinds.harness import RowsFrom, harness_task
from icu_ray.evaluation.kinds.perplexity import perplexity_task, rolling_task
from icu_ray.evaluation.rows.quick_world import QuickWorld, quick_dialogues, quick_rows
from icu_ray.evaluation.rows.read_mirror import authors_file
from icu_ray.evaluation.rows.write_mirror import authors_folder, write_mirror
from icu_ray.evaluation.task import TaskSource

DIALOGUES: Mapping[str, str] = {
    "wow": "validation/wizard_of_wikipedia.json",
    "ed": "validation/empathetic_dialogues.json",
    "bst": "validation/blended_skill_talk.json",
    "woi": "validation/wizard_of_internet.json",
}
PERPLEXITIES: Mapping[str, str] = {
    f"{text}_{form}": f"validation/{text}.csv" for form in ("icu", "rolling") for text in ("pile", "wikitext")
}
NINE = tuple(HARNESS_FILES)
AUTHORS_NINE = tuple(f"{name.removesuffix('_openai')}_icu" for name in NINE)
SUITES: Mapping[str, tuple[str, ...]] = {
    "lm_eval": NINE,
    "icu": (*AUTHORS_NINE, *DIALOGUES, *PERPLEXITIES),
    "quick": ("quick_choice", "quick_cloze", "quick_dialogue", "quick_heldout"),
}
MEANS: Mapping[str, tuple[str, ...]] = {
    "cls/avg": tuple(f"cls/{name}_acc" for name in NINE),
    "cls/icu_avg": tuple(f"cls/{name}_acc" for name in AUTHORS_NINE),
    "cls/quick_avg": ("cls/quick_choice_acc", "cls/quick_cloze_acc"),
    "dialogue/avg": tuple(f"dialogue/{name}_f1" for name in DIALOGUES),
}


@dataclass(frozen=True)
class Options:
    """mirror: a folder as `icu-ray data mirror` writes it; None: the hub, and the authors' files from their repository.
    limit: documents of each task, from its first; None: all. keep: of a dialogue that is too long (authors: start).
    trust_task_code: run the code that a user's own task names."""

    mirror: Path | None = None
    limit: int | None = None
    keep: Keep = "end"
    world: QuickWorld = QuickWorld()
    trust_task_code: bool = False
    benchmark: BenchmarkAsked | None = None
    """The benchmark that the sweep's data belongs to, where its sets of prompts are asked."""
    groups: tuple[Group, ...] = ()
    """Those that were asked for in place of their tasks."""


def tasks_of(suites: Sequence[str], tasks: Sequence[str]) -> tuple[str, ...]:
    """Names of all tasks asked for, each once; UserError for a suite that is none."""
    for suite in suites:
        if suite not in SUITES:
            raise UserError(
                f"unknown suite '{suite}'{did_you_mean(suite, SUITES)}; expected one of {', '.join(SUITES)}"
            )
    return tuple(dict.fromkeys([*(name for suite in suites for name in SUITES[suite]), *tasks]))


def with_tasks_of_groups(
    names: Sequence[str], no_groups: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """The names with each group's tasks in its place, and the groups. no_groups: names that are known to be none."""
    groups = groups_of(names, (*no_groups, *(task for tasks in SUITES.values() for task in tasks)))
    return without_groups(names, groups), groups


def check_names(
    names: Sequence[str], trust_task_code: bool, mirror: Path | None = None, known: Sequence[str] = ()
) -> None:
    """UserError for a name that is no task, one whose code is not to be run, or a file of rows that is not there.

    Reads no rows. mirror: where the rows come from instead of a task's own files. known: names that are not in a suite.
    """
    known = (*known, *(task for tasks in SUITES.values() for task in tasks))
    for name in names:
        if name not in known:
            definition = find_definition(name, known, trust_task_code)
            if mirror is None:
                definition.check_files()


def open_tasks(names: Sequence[str], options: Options) -> list[TaskSource]:
    """Every task by name; UserError for an unknown one, and for rows that are not there."""
    return [open_task(name, options) for name in names]


def open_task(name: str, options: Options) -> TaskSource:
    """One task; its rows are read when it is loaded."""
    limit, world = options.limit, options.world
    if options.benchmark is not None and name in task_names(options.benchmark):
        return benchmark_task(name, options.benchmark, limit)
    if name in DIALOGUES:
        return dialogue_task(name, _authors(DIALOGUES[name], options), limit, options.keep)
    if name in PERPLEXITIES:
        return perplexity_task(name, _authors(PERPLEXITIES[name], options), limit)
    made = {"quick": name, **world.key(), "limit": limit}
    if name == "quick_dialogue":
        return TaskSource(name, made, lambda: task_of("quick", quick_dialogues(world)[:limit], "end"))
    if name == "quick_heldout":
        return TaskSource(name, made, lambda: rolling_task(name, world.texts()[:limit]))
    known = tuple(task for tasks in SUITES.values() for task in tasks)
    definition = find_definition(name, known, options.trust_task_code)
    if "synthetic" in definition.metadata:
        rows = RowsFrom(made=quick_rows(str(definition.metadata["synthetic"]), world), made_key=world.key())
    elif "file" in definition.metadata:
        rows = RowsFrom(file=_authors(str(definition.metadata["file"]), options))
    else:
        rows = RowsFrom(mirror=options.mirror)
    return harness_task(definition, rows, limit)


def _authors(name: str, options: Options) -> Path:
    return authors_file(options.mirror if options.mirror is not None else authors_folder(), name)


def mirror_tasks(names: Sequence[str], out: Path, say: Callable[[str], None]) -> None:
    """Write a mirror of these tasks (none named: of the suites lm_eval and icu) below `out`."""
    names, _ = with_tasks_of_groups(names or tasks_of(["lm_eval", "icu"], []))
    authors = [name for name in names if name in DIALOGUES or name in PERPLEXITIES]
    known = tuple(task for tasks in SUITES.values() for task in tasks)
    # Of what a task names as code nothing is run here.
    definitions = [
        find_definition(name, known, trust_code=True)
        for name in names
        if name not in authors and name not in SUITES["quick"]
    ]
    from_hub = [each for each in definitions if "file" not in each.metadata]
    write_mirror(out, from_hub, say, authors=bool(authors) or len(from_hub) < len(definitions))


def with_means(
    metrics: Mapping[str, float], groups: Sequence[Group] = (), documents: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Metrics and those means whose every part is among them, and of groups what their tasks give together.

    documents: how many each evaluated task has.
    """
    means = {
        name: sum(metrics[part] for part in parts) / len(parts)
        for name, parts in MEANS.items()
        if all(part in metrics for part in parts)
    }
    of_groups = {name: value for each in groups for name, value in each.means(metrics, documents or {}).items()}
    return {**metrics, **means, **of_groups}
