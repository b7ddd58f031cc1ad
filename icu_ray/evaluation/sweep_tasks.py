"""The tasks that a sweep's `evaluation` section asks for, and what is refused of them before anything runs.

names, options = sweep_tasks(config)
check_sweep_tasks(config, read=True)      # UserError, or nothing
"""

from __future__ import annotations

from pathlib import Path

from icu_ray.config import SweepConfig, SyntheticData
from icu_ray.errors import UserError
from icu_ray.evaluation.rows.quick_world import QuickWorld
from icu_ray.evaluation.suites import Options, check_names, open_tasks, tasks_of


def sweep_tasks(config: SweepConfig) -> tuple[tuple[str, ...], Options]:
    """What a sweep's `evaluation` section asks for: names of tasks (none: no evaluation), and how they are read."""
    asked, data = config.evaluation, config.data
    world = QuickWorld()
    if isinstance(data, SyntheticData):
        world = QuickWorld(data.seed, data.records, data.heldout, config.columns.length)
    mirror = None if asked.mirror is None else Path(asked.mirror)
    options = Options(mirror, asked.limit, asked.dialogue_context, world, asked.trust_task_code)
    return tasks_of(asked.suites, asked.tasks), options


def check_sweep_tasks(config: SweepConfig, read: bool) -> None:
    """UserError for a task that is none, a mirror that is not there, and (where `read`) rows that cannot be used."""
    names, options = sweep_tasks(config)
    if options.mirror is not None and not options.mirror.is_dir():
        raise UserError(
            f"evaluation.mirror: {options.mirror}: no such folder; write one with 'icu-ray data mirror --out DIR'"
        )
    check_names(names, options.trust_task_code, options.mirror)
    if read:
        for source in open_tasks(names, options):
            source.load()
