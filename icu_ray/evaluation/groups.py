"""Groups and tags of lm-evaluation-harness: which tasks they mean, and the numbers that a group's tasks give together.

    (group,) = groups_of(["mmlu"])              # a task is none; a tag is a group without numbers of its own
    group.tasks                                 # ("mmlu_abstract_algebra", ...), each is evaluated by itself
    group.means(metrics, documents)             # {"cls/mmlu_acc": .., "cls/mmlu_stem_acc": ..}

A group's number is lm-eval's: the mean of its tasks' numbers, weighted by their documents unless the group says
otherwise. A user's own group is a YAML file in the harness's format; the names in it are tasks of files beside it, or
of the harness.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError, did_you_mean
from icu_ray.evaluation.definition import (
    ALONE,
    FOLDERS,
    HARNESS_FILES,
    harness_folder,
    harness_index,
    own_names,
    read_keys,
)

_FAMILIES = ("cls", "gen", "ppl")


@dataclass(frozen=True)
class Mean:
    """A metric that a group reports. filters: of the harness; None: all that there are. weighted: by documents."""

    metric: str
    filters: tuple[str, ...] | None
    weighted: bool


@dataclass(frozen=True)
class Group:
    """asked: how a config names it, which of a user's own is its file. tasks: as a config would name them, those of its
    groups too. called: by what names they are evaluated."""

    name: str
    asked: str
    tasks: tuple[str, ...]
    called: tuple[str, ...]
    reported: tuple[Mean, ...] = ()
    groups: tuple[Group, ...] = ()

    def means(self, metrics: Mapping[str, float], documents: Mapping[str, int]) -> dict[str, float]:
        """By full name, for it and for its groups. documents: how many each evaluated task has.

        Nothing for a group of which a task is missing; tasks that lack a metric do not count in it.
        """
        found = {name: value for each in self.groups for name, value in each.means(metrics, documents).items()}
        if not all(documents.get(task) for task in self.called):
            return found
        for mean in self.reported:
            for family in _FAMILIES:
                for tail in self._tails(mean, family, metrics):
                    values = [
                        (metrics[f"{family}/{task}_{tail}"], documents[task] if mean.weighted else 1)
                        for task in self.called
                        if f"{family}/{task}_{tail}" in metrics
                    ]
                    if values:
                        whole = sum(size for _, size in values)
                        found[f"{family}/{self.name}_{tail}"] = sum(value * size for value, size in values) / whole
        return found

    def _tails(self, mean: Mean, family: str, metrics: Mapping[str, float]) -> list[str]:
        """What stands behind a task's name in the metrics that a mean is made of."""
        if mean.filters is not None:
            return [mean.metric if each == "none" else f"{mean.metric}_{each}" for each in mean.filters]
        # A metric is `acc` or, by a filter, `acc_FILTER`; acc_norm is another metric.
        others = {other.metric for other in self.reported} | {"acc_norm", "acc_bytes", "acc_mutual_info"}
        starts = [f"{family}/{task}_" for task in self.called]
        tails = {name.removeprefix(start) for name in metrics for start in starts if name.startswith(start)}
        by_filter = {tail for tail in tails if tail.startswith(f"{mean.metric}_") and tail not in others}
        return sorted({mean.metric, *by_filter})


def groups_of(names: Sequence[str], known: Sequence[str] = ()) -> tuple[Group, ...]:
    """The groups among names of tasks; UserError for one that is not understood. known: tasks that are no groups."""
    found = [None if name in known else find_group(name) for name in names]
    return tuple(group for group in found if group is not None)


def without_groups(names: Sequence[str], groups: Sequence[Group]) -> tuple[str, ...]:
    """The names with each group's tasks in its place, each once."""
    tasks = {group.asked: group.tasks for group in groups}
    return tuple(dict.fromkeys(task for name in names for task in tasks.get(name, (name,))))


def find_group(name: str) -> Group | None:
    """The group or tag of a name, or of a user's YAML file; None for what is none."""
    if name.endswith(".yaml"):
        path = Path(name)
        keys = read_keys(path, own=True) if path.is_file() else {}
        return None if "group" not in keys else _group(keys, _Beside(path.parent), name, name)
    if name in HARNESS_FILES or name in ALONE or name in own_names():
        return None
    for folder in FOLDERS:
        # Looked at before the harness's index, which takes a while to make.
        beside = _beside(harness_folder() / folder)
        if name in beside.tasks or (group := beside.group(name)) is not None:
            return None if name in beside.tasks else group
    return _of_index(name, name)


@dataclass(frozen=True)
class _Beside:
    """The tasks and groups in the YAML files of a folder, by name. own: of a user, whose tasks are named by file."""

    folder: Path
    own: bool = True

    @functools.cached_property
    def _keys(self) -> list[tuple[Path, dict[str, Any]]]:
        return [(path, read_keys(path, own=self.own)) for path in sorted(self.folder.glob("*.yaml"))]

    @functools.cached_property
    def groups(self) -> dict[str, dict[str, Any]]:
        return {str(keys["group"]): keys for _, keys in self._keys if "group" in keys}

    @functools.cached_property
    def tasks(self) -> dict[str, str]:
        """By name, as `evaluation.tasks` names them."""
        named = [(path, keys["task"]) for path, keys in self._keys if isinstance(keys.get("task"), str)]
        return {name: str(path) if self.own else name for path, name in named}

    @functools.cached_property
    def tags(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for _, keys in self._keys:
            said = keys.get("tag") if isinstance(keys.get("task"), str) else None
            for tag in [said] if isinstance(said, str) else said or ():
                found.setdefault(str(tag), []).append(keys["task"])
        return found

    def group(self, name: str) -> Group | None:
        """A group or a tag here; None: there is none of that name."""
        if name in self.groups:
            return _group(self.groups[name], self, name, name)
        if name in self.tags:
            return _tag(name, [(self.tasks[task], task) for task in self.tags[name]])
        return None


@functools.cache
def _beside(folder: Path) -> _Beside:
    """A folder of the harness."""
    return _Beside(folder, own=False)


def _tag(name: str, tasks: Sequence[tuple[str, str]]) -> Group:
    return Group(name, name, tuple(task for task, _ in tasks), tuple(called for _, called in tasks))


def _of_index(name: str, asked: str) -> Group | None:
    """A group or a tag of the harness's index; None for what is none."""
    index = harness_index()
    if name in index.all_groups:
        return _group(index.task_index[name].cfg or {}, None, name, asked)
    if name in index.all_tags:
        return _tag(name, [(task, task) for task in sorted(index.task_index[name].tags)])
    return None


def _group(keys: Mapping[str, Any], beside: _Beside | None, where: str, asked: str) -> Group:
    """A group by its file's keys. where: of messages."""
    name, listed = str(keys["group"]), keys.get("task")
    children = [listed] if isinstance(listed, str | dict) else listed
    if not isinstance(children, list) or not children:
        raise UserError(f"group {where}: task: expected a list of tasks, found {listed!r:.80}")
    tasks: dict[str, str] = {}
    groups = []
    for child in children:
        found = _child(child, beside, where)
        if isinstance(found, Group):
            groups.append(found)
            tasks |= dict(zip(found.tasks, found.called, strict=True))
        else:
            tasks[found[0]] = found[1]
    return Group(name, asked, tuple(tasks), tuple(tasks.values()), tuple(_means(keys, where)), tuple(groups))


def _child(child: object, beside: _Beside | None, where: str) -> Group | tuple[str, str]:
    """A group, or how a task is asked for and what it is called."""
    if isinstance(child, dict):
        if "group" in child:
            return _group(child, beside, f"{where}, {child['group']}", str(child["group"]))
        if not isinstance(child.get("task"), str) or set(child) - {"task", "task_alias"}:
            raise UserError(
                f"group {where}: a task that is made in the group's own file, with keys {', '.join(map(str, child))}; "
                "expected names of tasks: give each such task its own file"
            )
        child = child["task"]
    name = str(child)
    if beside is not None:
        if (group := beside.group(name)) is not None:
            return group
        if name in beside.tasks:
            return beside.tasks[name], name
    if name in HARNESS_FILES or name in ALONE or name in own_names():
        return name, name
    for folder in FOLDERS:
        if name in _beside(harness_folder() / folder).tasks:
            return name, name
    group = _of_index(name, name)
    if group is None and name not in harness_index().all_subtasks:
        raise UserError(
            f"group {where}: task '{name}' is neither in a file next to it nor a task of lm-eval"
            f"{did_you_mean(name, [] if beside is None else beside.tasks)}"
        )
    return (name, name) if group is None else group


def _means(keys: Mapping[str, Any], where: str) -> Iterator[Mean]:
    said = keys.get("aggregate_metric_list") or []
    for entry in [said] if isinstance(said, dict) else said:
        if not isinstance(entry, dict) or not isinstance(entry.get("metric"), str):
            raise UserError(
                f"group {where}: aggregate_metric_list: expected entries with a metric, found {entry!r:.80}"
            )
        if entry.get("aggregation", "mean") != "mean":
            raise UserError(f"group {where}: aggregation: expected mean, found {entry['aggregation']!r:.80}")
        filters = entry.get("filter_list")
        listed = [filters] if isinstance(filters, str) else filters
        yield Mean(
            entry["metric"],
            None if listed is None else tuple(map(str, listed)),
            bool(entry.get("weight_by_size", True)),
        )
