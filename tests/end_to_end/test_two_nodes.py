"""A cluster of several nodes on this machine: workers that span two of them, and trials whose nodes are taken away.

Needs: a Ray of several nodes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from icu_ray.cluster.spot_notice import Notice, drain
from icu_ray.data.embedding import Embedder, _embed, matrix_of
from tests.support.faults_case import STANDIN, Sweep, alive, method, same
from tests.support.local_ray import ray_nodes
from tests.support.trained import lent

pytestmark = pytest.mark.slow
MODELS = (f"{{name: one, {STANDIN}}}", f"{{name: two, {STANDIN}, workers: 2, zero_stage: 2}}")
COMMON = ("tracking.enabled=false", "resources.max_concurrent=1")
DEADLINE_SECONDS = 90
BATCHES = 12
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep of a trial on one worker and one on two."""
    return Sweep(
        tmp_path_factory.mktemp("calm"), (method("none", "one", "one"), method("none", "two", "two", 0.25)), MODELS
    )


@pytest.fixture(scope="module")
def cluster(calm: Sweep) -> Iterator[Any]:
    """A head without CPUs, and nothing else yet."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in calm.environment.items():
            patch.setenv(name, value)
        # A node that is lost is known to be after five seconds, not fifteen.
        with ray_nodes(num_cpus=0, _system_config={"health_check_period_ms": 1000}) as nodes:
            yield nodes


def kill_machine(raylet: int) -> None:
    """kill -9 of everything that runs on a node, its raylet first."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    for process in (raylet, *(process for process, parent in parents.items() if parent == raylet)):
        os.kill(process, signal.SIGKILL)


def test_workers_on_two_nodes_a_notice_of_preemption_and_a_node_that_is_lost(
    cluster: Any, calm: Sweep, tmp_path: Path, trained: Path
) -> None:
    whole = cluster.add_node(**{**NODE, "num_cpus": 2})
    with lent(trained, calm.disk / "store"):
        driver = calm.start(*COMMON, RAY_ADDRESS=cluster.address)
        assert driver.end() == 0, driver.output
    expected = calm.results()
    assert len(set(calm.calls("none"))) == 3 and len(set(calm.nodes("none"))) == 1
    (calm.faults / "none.calls").unlink()
    methods = (method("moves", "one", "one"), method("none", "two", "two", 0.25))
    moved = Sweep(tmp_path, methods, MODELS, store_of=calm)
    moved.faults = calm.faults  # the cluster's processes know this one

    cluster.remove_node(whole)
    nodes = {node.node_id: node for node in (cluster.add_node(**NODE), cluster.add_node(**NODE))}
    driver = moved.start(*COMMON, "resources.retries=1", RAY_ADDRESS=cluster.address)

    # The wider trial comes first: its two workers stand on the two nodes.
    moved.reached("drain", driver)
    assert set(moved.nodes("none")) == set(nodes) and len(set(moved.calls("none"))) == 2
    assert same(moved.results()["two"], expected["two"])

    # A notice of preemption: the trial leaves after the epoch that it is in.
    first = moved.nodes("moves")[-1]
    drain(cluster.address, first, Notice("test", DEADLINE_SECONDS))
    moved.go("drain")
    worker = moved.reached("node", driver)
    second = moved.nodes("moves")[-1]
    assert {first, second} == set(nodes)

    # The node that it moved to is lost without notice, and another one comes.
    third = cluster.add_node(**NODE).node_id
    kill_machine(nodes[second].all_processes["raylet"][0].process.pid)
    driver.wait_for(lambda: not alive(worker))
    moved.go("node")
    assert driver.end() == 0, driver.output
    assert same(moved.results()["one"], expected["one"])
    assert driver.output.count("again    one-one-s0-a0.5-b1.0: its workers were restarted") == 2
    steps, calls = moved.steps("one"), moved.nodes("moves")
    # Nothing was done twice for the notice, and for the loss the epoch that was lost, though one retry was allowed.
    assert calls[: steps[1] + steps[2]] == [first] * (steps[1] + steps[2])
    assert len(calls) == sum(steps) + 2
    assert set(calls[-steps[-1] :]) == {third} and len(set(moved.calls("moves"))) == 3


def test_a_node_with_the_only_copy_of_an_object_is_lost_while_texts_are_embedded(cluster: Any) -> None:
    """What an actor has made lies in its node's object store until it is read: it is made again, and is the same."""
    import ray
    from ray._private.internal_api import node_stats

    texts = [f"number {row} of many" for row in range(BATCHES * 128)]
    order = sorted(range(len(texts)), key=lambda row: (len(texts[row]), row))
    batches = [order[at : at + 128] for at in range(0, len(order), 128)]
    embedder = Embedder("bundled")
    expected = np.zeros((len(texts), 384), dtype=np.float32)
    for rows in batches:
        table = pa.table({"rows": [rows], "texts": [[texts[row] for row in rows]]})
        expected[rows] = matrix_of(embedder(table).column("vector"))

    nodes = {node.node_id: node for node in (cluster.add_node(**NODE), cluster.add_node(**NODE))}
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    try:
        there = [each for each in ray.nodes() if each["NodeID"] in nodes]

        def unread(node: dict[str, Any]) -> int:
            asked = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
            return int(asked.store_stats.object_store_bytes_used)

        found = np.zeros_like(expected)
        blocks = _embed(texts, "bundled", 2, 128)
        told = [next(blocks)]
        until = time.monotonic() + 300
        while (fullest := max(there, key=unread)) and unread(fullest) < told[0][1].nbytes:
            assert time.monotonic() < until
            time.sleep(0.1)
        kill_machine(nodes[fullest["NodeID"]].all_processes["raylet"][0].process.pid)
        told += blocks
    finally:
        ray.shutdown()
    for rows, block in told:
        found[rows] = block
    assert sum(len(rows) for rows, _ in told) == len(texts)
    # Another process may have another number of threads, and adds up in another order.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
