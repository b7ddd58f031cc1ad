"""Tasks of the harness without code: templates in a sandbox, and a user's own task made of plain values alone.

sandbox_templates(); task = task_of_values(definition, overrides)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError
from icu_ray.evaluation.definition import TRUST, Definition

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

_STRUCTURE = ("include", "tag", "group", "task_list")
"""Keys that say where a task belongs; its own class does not know them."""


def sandbox_templates() -> None:
    """Let the harness render every template, its own too, where it reaches neither attributes of Python nor files."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    if isinstance(utils.env, SandboxedEnvironment):
        return
    sandbox = SandboxedEnvironment(
        loader=utils.env.loader,
        undefined=utils.env.undefined,
        keep_trailing_newline=utils.env.keep_trailing_newline,
    )
    sandbox.filters.update(utils.env.filters)
    utils.env = sandbox


def task_of_values(definition: Definition, overrides: Mapping[str, Any]) -> ConfigurableTask:
    """A user's task from what was read of its file: the harness's own reader, which runs code, never sees that."""
    from lm_eval.api.task import ConfigurableTask

    config = {key: value for key, value in definition.config.items() if key not in _STRUCTURE}
    return ConfigurableTask(config={**copy.deepcopy(config), **overrides, "metadata": dict(definition.metadata)})


def refuse_foreign_metrics(definition: Definition) -> None:
    """UserError for a metric that is not the harness's own: it would be looked for as a script, here or on the hub."""
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import metric_registry

    listed = definition.config.get("metric_list")
    for entry in listed if isinstance(listed, list) else ():
        name = entry.get("metric") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name not in metric_registry or entry.get("hf_evaluate"):
            raise UserError(
                f"task {definition.path}: metric_list: {name} is none of the harness's metrics; a script is run "
                f"only with {TRUST}"
            )
