"""A sweep on a cluster whose workers come from nothing: Ray's own autoscaler with its provider of fake nodes.

Needs: a Ray of several nodes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.test_sweep import CONFIG
from tests.support.free_ports import free_port
from tests.support.trained import lent

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
HEAD = "f" * 51 + "00000"
MOST = 2
IDLE_SECONDS = 6
TYPES = f"resources.node_types=[{{name: worker, cpus: 2, most: {MOST}}}]"


def autoscaler_file(folder: Path, port: int) -> Path:
    """A head that holds nothing, and workers of two CPUs from none to MOST."""
    commands = ("setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray", "initialization")
    tree = {
        "cluster_name": "fake",
        "max_workers": MOST,
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "upscaling_speed": 10,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": HEAD,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "auth": {"ssh_user": "nobody"},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": MOST},
        },
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in commands},
    }
    path = folder / "autoscaler.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="icuas", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
        command += [
            "--num-cpus=0",
            f"--autoscaling-config={autoscaler_file(folder, port)}",
            f"--temp-dir={folder / 'ray'}",
        ]
        command += ["--include-dashboard=false", "--ray-client-server-port", str(free_port())]
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + 300
            while "Ray runtime started" not in (folder / "head.log").read_text(errors="replace"):
                assert head.poll() is None and time.monotonic() < deadline, (folder / "head.log").read_text()
                time.sleep(0.5)
            yield f"127.0.0.1:{port}"
        finally:
            # Everything that this Ray started is told by its folder or by its session.
            os.killpg(head.pid, signal.SIGKILL)  # asked politely it takes half a minute
            head.wait(60)
            _end_what_runs_in(folder)
            sys.stdout.write((folder / "head.log").read_text(errors="replace"))  # pytest shows it where the test failed


def _end_what_runs_in(folder: Path) -> None:
    """The fake nodes' processes have sessions of their own; their command lines name this test's own folder."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                line = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in line:
                os.kill(int(process.name), signal.SIGKILL)


def sweep(folder: Path, address: str, *overrides: str) -> tuple[int, str]:
    """Exit code and what it said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "icu_ray.sweep", "c.yaml", *overrides]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        try:
            output, _ = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(process.communicate()[0]) from None
    return process.returncode, output


def test_workers_come_from_nothing_up_to_the_limit_and_go_again(address: str, tmp_path: Path, trained: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.split("evaluation:")[0])
    # No node type could ever hold four CPUs: said at the start, before any node is asked for.
    code, output = sweep(tmp_path, address, TYPES, "models.0.cpus_per_worker=4")
    assert code == 2 and "the cluster can never give more than 0" in output, output
    # Nor can a sweep know of nodes that nobody told it of.
    code, output = sweep(tmp_path, address)
    assert code == 2 and "resources.node_types" in output, output

    with workers_told(address) as told:
        assert told.get(timeout=300) == 0
        with lent(trained, tmp_path / "runs" / "store"):
            code, output = sweep(tmp_path, address, TYPES, "models.0.cpus_per_worker=2")
        assert code == 0, output
        assert output.count("[1/2]") == 1 and output.count("[2/2]") == 1
        most, deadline = 0, time.monotonic() + 50 * IDLE_SECONDS
        while (workers := told.get(timeout=300)) or most == 0:
            most = max(most, workers)
            assert time.monotonic() < deadline, (workers, most)
        # Two trials of two CPUs each, side by side on two nodes, and never a third; all have gone again.
        assert most == MOST


WATCH = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while True:
    print(sum(node["Alive"] and node["NodeID"] != sys.argv[2] for node in ray.nodes()), flush=True)
    time.sleep(0.5)
"""


@contextlib.contextmanager
def workers_told(address: str) -> Iterator[queue.SimpleQueue[int]]:
    """The number of nodes beside the head, twice a second. By a process of its own: Ray ends at once what is connected
    to a head that dies."""
    command, told = [sys.executable, "-c", WATCH, address, HEAD], queue.SimpleQueue[int]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout
        assert lines is not None
        reader = threading.Thread(target=lambda: [told.put(int(line)) for line in lines])
        reader.start()
        try:
            yield told
        finally:
            process.kill()
            reader.join()
