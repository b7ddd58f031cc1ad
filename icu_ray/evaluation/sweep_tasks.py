"""The tasks that a sweep's `evaluation` section asks for, and what is refused of them before anything runs.

names, options = sweep_tasks(config)
check_sweep_tasks(config, read=True)      # UserError, or nothing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from icu_ray.config import RecordsData, SweepConfig, SyntheticData
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.rows import has_paraphrases, split_of
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked, task_names
from icu_ray.evaluation.groups import Group
from icu_ray.evaluation.rows.quick_world import QuickWorld
from icu_ray.evaluation.suites import Options, check_names, open_tasks, tasks_of, with_tasks_of_groups
from icu_ray.metrics.conventions import conventions_of


def sweep_tasks(config: SweepConfig) -> tuple[tuple[str, ...], Options]:
    """What a sweep's `evaluation` section asks for: names of tasks (none: no evaluation), and how they are read."""
    asked, data = config.evaluation, config.data
    world = QuickWorld()
    if isinstance(data, SyntheticData):
        world = QuickWorld(data.seed, data.records, data.heldout, config.columns.length)
    mirror = None if asked.mirror is None else Path(asked.mirror)
    benchmark = benchmark_asked(config)
    options = Options(mirror, asked.limit, asked.dialogue_context, world, asked.trust_task_code, benchmark)
    names = tasks_of([suite for suite in asked.suites if suite != "benchmark"], asked.tasks)
    names, groups = names_with_benchmark(benchmark, names)
    return names, replace(options, groups=groups)


def names_with_benchmark(
    asked: BenchmarkAsked | None, names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Names of what a benchmark asks, its own tasks and the harness's, and of other tasks; and the groups in them."""
    own = () if asked is None else task_names(asked)
    harness = () if asked is None else split_of(asked.section).harness
    return with_tasks_of_groups([*own, *harness, *names], own)


def benchmark_asked(config: SweepConfig) -> BenchmarkAsked | None:
    """What `suites: [benchmark]` asks; None where it is not asked for."""
    return benchmark_of_config(config) if "benchmark" in config.evaluation.suites else None


def benchmark_of_config(config: SweepConfig) -> BenchmarkAsked | None:
    """What the benchmark asks that a config's data belong to; None for other data."""
    data = config.data
    if not isinstance(data, RecordsData) or data.benchmark is None:
        return None
    given = config.evaluation.conventions
    by = conventions_of(given if isinstance(given, str) else given.model_dump())
    more = config.evaluation.membership, config.evaluation.paraphrased_questions
    return BenchmarkAsked(data.benchmark, data.form, by, *more)  # type: ignore[arg-type]


def check_sweep_tasks(config: SweepConfig, read: bool) -> None:
    """UserError for a task that is none, a mirror that is not there, and (where `read`) rows that cannot be used."""
    names, options = sweep_tasks(config)
    if options.mirror is not None and not options.mirror.is_dir():
        raise UserError(
            f"evaluation.mirror: {options.mirror}: no such folder; write one with 'icu-ray data mirror --out DIR'"
        )
    own = () if options.benchmark is None else task_names(options.benchmark)
    if options.benchmark is not None and config.evaluation.membership and not _has(options.benchmark, members=True):
        raise UserError(
            f"evaluation.membership: {', '.join(config.evaluation.membership)}: {options.benchmark.name} asks of no "
            "rows whether they were trained on; leave it out (tofu, muse and rwku do)"
        )
    if (
        options.benchmark is not None
        and options.benchmark.paraphrased
        and not has_paraphrases(data := options.benchmark.section)
    ):
        raise UserError(
            f"evaluation.paraphrased_questions: {data.source} has no questions in other words; leave it out (tofu "
            "has them)"
        )
    check_names(names, options.trust_task_code, options.mirror, own)
    if read:
        for source in open_tasks(names, options):
            source.load()


def membership_said(config: SweepConfig) -> tuple[str, ...]:
    """A remark where there are rows that were trained on, and none beside them that were not."""
    asked = benchmark_asked(config)
    if asked is None or not _has(asked, members=True) or _has(asked, members=False):
        return ()
    wanted = next(each for each in split_of(asked.section).sets if each.members is False)
    return (
        f"{asked.name}: {wanted.table} is not there, whose rows no model was trained on: the AUC of every membership "
        "attack is null, and there is no privleak.",
    )


def _has(asked: BenchmarkAsked, *, members: bool) -> bool:
    return any(each.members is members for each in asked.sets)
