"""Which code, packages, config and data made a result.

provenance = provenance_of(config, data_fingerprint)
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from typing import Any

from icu_ray.config import SweepConfig
from icu_ray.errors import without_secrets
from icu_ray.storage.code_version import code_version
from icu_ray.storage.results import Provenance

PACKAGES = ("ray", "torch", "transformers", "deepspeed", "sentence-transformers", "faiss-cpu", "bert-score", "mlflow")


def provenance_of(config: SweepConfig, data: str) -> Provenance:
    """Of a sweep that this process runs. data: fingerprint of its texts."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    code = code_version()
    return Provenance(
        version=str(code["version"]),
        commit=str(code["commit"]),
        dirty=bool(code["dirty"]),
        data=data,
        packages=versions,
        config=_without_secrets(config.model_dump(mode="json")),
    )


def _without_secrets(tree: Any) -> Any:
    """The same plain tree, its addresses (storage, tracking, ...) as they may be shown."""
    if isinstance(tree, dict):
        return {key: _without_secrets(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_secrets(value) for value in tree]
    return without_secrets(tree) if isinstance(tree, str) and "://" in tree else tree
