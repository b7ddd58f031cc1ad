"""The files in cluster/, parsed, and what Ray makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
LAUNCHERS = ("aws.yaml", "gcp.yaml")
MANIFESTS = tuple(sorted(path.name for path in (CLUSTER / "kuberay").glob("*.yaml")))


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay" / name).read_text()))


def all_documents() -> list[dict[str, Any]]:
    return [document for name in MANIFESTS for document in documents(name)]


def nodes_of(tree: Any) -> Iterator[Any]:
    """Every value in a tree of mappings and lists."""
    yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes_of(child)


def containers(tree: Any) -> Iterator[dict[str, Any]]:
    for node in nodes_of(tree):
        if isinstance(node, dict):
            yield from node.get("containers", [])


def pod_specs(tree: Any) -> Iterator[dict[str, Any]]:
    return (node for node in nodes_of(tree) if isinstance(node, dict) and "containers" in node)


def prepared(name: str) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(name))
    validate_config(config)
    return config


def kuberay_config(cluster: dict[str, Any]) -> dict[str, Any]:
    """Ray's own reading of a RayCluster, as its autoscaler in the head pod makes it."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    return _derive_autoscaling_config_from_ray_cr(copy.deepcopy(cluster))
