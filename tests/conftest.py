"""Fixtures of several test files."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Whatever a test starts must not wait for a hub that cannot be reached, nor use more cores than it was given.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# On a busy machine Ray takes longer to come up than the 30 s it gives itself.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
# Ray reads these once in a process: every Ray that a test starts, ours or a plain one, has the same.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real texts and oracle numbers beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "oracles" / "A" / "expected.json").is_file():
        pytest.skip("needs ../shared (real texts and oracle numbers), which is not here")
    return folder


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A Ray of two CPUs of its own for the tests of one file."""
    import ray

    folder = tempfile.mkdtemp(prefix="icu", dir="/tmp")  # a long path does not fit Ray's sockets
    ray.init(num_cpus=2, _temp_dir=folder, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
