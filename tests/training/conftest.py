"""The process group of the tests that train in their own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from icu_ray.training.engine import distributed, set_device_environment


@pytest.fixture(scope="session", autouse=True)
def _group() -> Iterator[None]:
    """One for all files: DeepSpeed keeps the first group of a process, and fails once that is destroyed."""
    set_device_environment(torch.device("cpu"))
    with distributed(0, 1):
        yield
