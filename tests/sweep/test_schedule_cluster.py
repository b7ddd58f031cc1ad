"""The trial queue on a real Ray of several nodes with logical GPUs: what starts when and where, recorded as it happens.

The trials hold a placement group for a few seconds and train nothing; the queue, Tune, the cluster and its bookkeeping
of resources are the real ones.

Needs: a Ray of several nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.plan.planning import plan_sweep
from icu_ray.plan.schedule import NO_LIMITS
from icu_ray.plan.trial import Trial
from tests.support.local_ray import ray_nodes

pytestmark = pytest.mark.slow
GPUS = (8, 6)
SECONDS = 3.0
"""A trial's real duration for one estimated minute, after what it waits for."""
WAIT_SECONDS = 120.0
"""What should have come by then will not; the trials go on, and the test fails by what was recorded."""
CONFIG: dict[str, Any] = {
    "name": "t",
    "data": {"source": "synthetic", "records": 40, "sample_size": 6, "heldout": 4},
    "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
    "samples": [0, 1, 2],
    "train": {"batch_size": 6},
    "models": [
        {"name": name, "standin": {"seed": seed}, "workers": workers, "gpus_per_worker": 1, "minutes_per_epoch": epoch}
        for seed, (name, workers, epoch) in enumerate((
            ("six", 6, 0.1), ("three", 3, 0.08), ("one-a", 1, 0.02), ("one-b", 1, 0.03), ("one-c", 1, 0.04),
        ))
    ],
}  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[dict[str, float]]:
    """GPUs of the cluster's worker nodes, by node id."""
    import ray

    with ray_nodes(num_cpus=1, num_gpus=0) as nodes:
        for gpus in GPUS:
            nodes.add_node(num_cpus=32, num_gpus=gpus)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield {node["NodeID"]: node["Resources"]["GPU"] for node in ray.nodes() if node["Resources"].get("GPU")}
        finally:
            ray.shutdown()


def trainable(trials: tuple[Trial, ...], folder: Path) -> Callable[[dict[str, Any]], None]:
    """A trial holds its worker group's resources, taken as Ray Train takes them, for a while.

    However slow the machine, small trials run beside the first two sixes, and beside the third one's start: the first
    two wait for a small one, and small ones for the third.
    """
    first, second, third = (trial.trial_id for trial in trials[:3])
    workers = {trial.trial_id: trial.workers for trial in trials}
    seconds = {trial.trial_id: trial.minutes * SECONDS for trial in trials}

    def hold(config: dict[str, Any]) -> None:
        from ray import tune
        from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

        count = workers[config["trial_id"]]
        where = [{"ray.io/node-id": config["node"]}] * count
        group = placement_group([{"CPU": 1, "GPU": 1}] * count, strategy="PACK", bundle_label_selector=where)
        assert group.wait(WAIT_SECONDS)
        nodes = list(placement_group_table(group)["bundles_to_node_id"].values())
        tune.report({"nodes": nodes, "placement_group": group.id.hex()})
        (folder / ("small" if count == 1 else config["trial_id"])).touch()
        awaited = folder / ("small" if config["trial_id"] in (first, second) else third)
        until = time.monotonic() + WAIT_SECONDS
        while not awaited.exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(seconds[config["trial_id"]])
        remove_placement_group(group)

    return hold


def run(trials: tuple[Trial, ...], folder: Path) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """What the queue started and saw end, in its order, and the nodes of each trial's workers."""
    from ray import tune

    from icu_ray.cluster.nodes import cluster_nodes
    from icu_ray.cluster.runtime import CONTROL
    from icu_ray.sweep.trial_queue import TrialQueue

    seen: list[tuple[str, str]] = []

    class Seen:
        def may_start(self) -> bool:
            return True

        def started(self, trial_id: str) -> None:
            seen.append(("start", trial_id))

        def placed(self, trial_id: str) -> None:
            pass

        def ended(self, trial_id: str, crashed: bool, placement_group: str | None) -> bool:
            seen.append(("crash" if crashed else "end", trial_id))
            return False

    queue = TrialQueue(trials, cluster_nodes, NO_LIMITS, Seen())
    results = tune.Tuner(
        tune.with_resources(trainable(trials, folder), dict(CONTROL)),
        tune_config=tune.TuneConfig(search_alg=queue, num_samples=len(trials), reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0),
    ).fit()
    return seen, {result.config["trial_id"]: result.metrics["nodes"] for result in results}


def test_groups_start_whole_in_their_turn_and_in_free_room(cluster: dict[str, float], tmp_path: Path) -> None:
    trials = plan_sweep(resolve_config(CONFIG, "t"), dry_run=True).trials
    workers = {trial.trial_id: trial.workers for trial in trials}
    assert [trial.workers for trial in trials] == [6] * 3 + [3] * 3 + [1] * 9
    seen, places = run(trials, tmp_path)
    assert sorted(trial for what, trial in seen if what == "start") == sorted(workers)
    assert sorted(trial for what, trial in seen if what == "end") == sorted(workers)

    # Groups stand whole on one node, and what the queue has started and not yet seen end fits at every moment: nobody
    # waits inside Ray for room that another one holds.
    held: dict[str, int] = dict.fromkeys(cluster, 0)
    for what, trial in seen:
        assert places[trial] == [places[trial][0]] * workers[trial]
        held[places[trial][0]] += workers[trial] if what == "start" else -workers[trial]
        assert all(held[node] <= gpus for node, gpus in cluster.items()), seen

    # Two sixes fill the nodes but for two GPUs, on which small trials run. The third six is the next to start once
    # either of the first has ended (other ends may be seen together with that one), though small ones wait that would
    # fit; the threes come after it.
    first, second, third = (trial.trial_id for trial in trials[:3])
    assert {places[first][0], places[second][0]} == set(cluster)
    ended = min(seen.index(("end", first)), seen.index(("end", second)))
    assert next(trial for what, trial in seen[ended:] if what == "start") == third
    started = [trial for what, trial in seen if what == "start"]
    before = started[: started.index(third)]
    assert {workers[trial] for trial in before[2:]} == {1}
    waiting = set(workers) - set(started[: started.index(third) + 1])
    assert any(workers[trial] == 1 for trial in waiting)
