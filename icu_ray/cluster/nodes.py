"""What this machine, a cluster, or an autoscaler could ever hold; what could never be placed is refused.

    refuse_impossible(groups, cluster_nodes(config.resources.node_types))

Importing this module does not import Ray.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.errors import UserError
from icu_ray.plan.schedule import NO_LIMITS, Limits, Node, WorkerGroup, most_workers

if TYPE_CHECKING:
    from icu_ray.config import NodeTypeConfig


def machine() -> Node:
    """What a Ray started on this machine would have, found without Ray."""
    return Node("this machine", usable_cpus(), _gpus())


def usable_cpus() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):  # a container's share of the machine
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    return cpus


def _gpus() -> int:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([item for item in listed.split(",") if item.strip() not in ("", "-1")])
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def cluster_nodes(types: Sequence[NodeTypeConfig] = ()) -> tuple[Node, ...]:
    """Nodes of the connected cluster, and those that its autoscaler may add: as it says, else as `types` do."""
    import ray
    from ray._private.state import state

    draining = draining_nodes()
    alive = [
        Node(node["NodeID"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    ]
    config = state.get_cluster_config()
    groups_known = list(config.node_group_configs) if config is not None else []
    groups = [(group.name, dict(group.resources), group.max_count) for group in groups_known]
    groups = groups or [(each.name, {"CPU": each.cpus, "GPU": each.gpus}, each.most) for each in types]
    return (*alive, *possible_nodes(alive, groups))


def draining_nodes() -> set[str]:
    """Ids of nodes that are about to be taken away: Ray places nothing on them any more."""
    from ray._private.state import state

    return set(state.get_draining_nodes() or {})


def possible_nodes(
    alive: Sequence[Node], groups: Iterable[tuple[str, Mapping[str, float], int]], unbounded: int = 64
) -> list[Node]:
    """Nodes that an autoscaler could still add: for each group (name, resources, most nodes; -1: no bound)."""
    found = []
    there = Counter((node.cpus, node.gpus) for node in alive)
    for name, resources, most in groups:
        shape = float(resources.get("CPU", 0)), float(resources.get("GPU", 0))
        # Groups of one shape (spot and on demand) share the nodes that are up: each of those counts once.
        taken = min(there[shape], most) if most >= 0 else 0
        there[shape] -= taken
        found += [Node(f"{name} #{number}", *shape) for number in range(unbounded if most < 0 else most - taken)]
    return found


def refuse_impossible(groups: Mapping[str, WorkerGroup], nodes: Sequence[Node], limits: Limits = NO_LIMITS) -> None:
    """UserError when the cluster can never hold the worker group of a model, by name."""
    for name, group in groups.items():
        most = most_workers(group, nodes, limits)
        if most < group.workers:
            size = f"{group.cpus:g} CPU" + (f" and {group.gpus:g} GPU" if group.gpus else "")
            bound = "" if limits.workers is None else f", and resources.max_workers is {limits.workers}"
            raise UserError(
                f"models: {name}: needs {group.workers} workers of {size} each at one time, but the cluster can never "
                f"give more than {most} ({_described(nodes)}{bound}); lower workers or gpus_per_worker of the model, "
                "or use a larger cluster (RAY_ADDRESS); what an autoscaler may add is set in resources.node_types"
            )


def _described(nodes: Sequence[Node]) -> str:
    kinds: dict[tuple[float, float], int] = {}
    for node in nodes:
        kinds[(node.cpus, node.gpus)] = kinds.get((node.cpus, node.gpus), 0) + 1
    return ", ".join(
        f"{count} node{'s' * (count > 1)} of {cpus:g} CPU and {gpus:g} GPU" for (cpus, gpus), count in kinds.items()
    )
