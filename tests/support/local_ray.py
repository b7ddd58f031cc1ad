"""A Ray of one or of several nodes on this machine, started in this process, in a folder of its own.

with ray_nodes(num_cpus=0) as nodes:        # a head, and whatever `nodes.add_node(num_cpus=2)` adds
    ray.init(address=nodes.address)

Nothing is written into Ray's default folder: it need not be there, and no other Ray on this machine is found by it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LONGEST_TEMP = 30
"""Ray adds about 70 characters to its folder for a socket's path, which may have 107."""


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for Ray's sockets, gone afterwards."""
    temp = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="icu", dir=temp if len(temp) <= LONGEST_TEMP else "/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_nodes(**head: Any) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with a head node alone, which ends with all its nodes. head: of its `add_node`."""
    from ray.cluster_utils import Cluster

    with short_folder() as folder:
        with pytest.MonkeyPatch.context() as patch:
            # Whatever folder it is given, Cluster writes its address into the default one, and does not make it.
            patch.setenv("RAY_TMPDIR", str(folder))
            patch.setenv("RAY_gcs_server_port_wait_time_s", "300")  # as in tests/conftest.py
            (folder / "ray").mkdir()
            nodes = Cluster(
                initialize_head=True, head_node_args={"include_dashboard": False, "temp_dir": str(folder), **head}
            )
        try:
            yield nodes
        finally:
            nodes.shutdown()
