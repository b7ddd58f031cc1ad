"""How do planning, starting and pairing grow as the work grows tenfold and a hundredfold?

    python benchmarks/growth.py [--json] [--rows N]

planning   make_plan for 60, 600 and 6,000 trials: an empty storage, and one in which every trial is finished
starting   one decision of the schedule (plan.schedule.next_start) with as many trials waiting for a full cluster
pairing    neighbours of 128 targets among 15,000, 150,000 and 1,500,000 clustered unit vectors of 384 numbers in shards
           of at most 65,536: `whole` is data.neighbours.search on a Ray started here, with one actor and that actor's
           peak resident memory of its own; `scan` is what the actor does with its shards, without Ray

`exponent` is the slope of log time against log size since the row above: 1 is linear. --rows leaves out larger pools.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from table import machine

from icu_ray.config import SweepConfig
from icu_ray.config.file import resolve_config
from icu_ray.data.neighbours import Find, Neighbour, Search, candidates, exact_shard, merge, search
from icu_ray.data.pairing import SHARD_ROWS
from icu_ray.data.sources import check_data
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.plan.schedule import Node, Placed, WorkerGroup, next_start
from icu_ray.plan.trial import worker_group_of
from icu_ray.storage.results import Provenance, Scores, TrialResult
from icu_ray.storage.trial_files import TrialPaths, write_result

WIDTH, QUERIES = 384, 128
POOLS = (15_000, 150_000, 1_500_000)
CELLS = (10, 100, 1000)
LATENT = 32
"""Clusters lie in this many dimensions, about those of sentence embeddings, so that their borders are crowded."""


def best_of(times: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Least seconds of several runs, and the last answer."""
    least, answer = math.inf, None
    for _ in range(times):
        started = time.perf_counter()
        answer = work()
        least = min(least, time.perf_counter() - started)
    return least, answer


def with_exponents(rows: list[dict[str, Any]], size: str, seconds: str) -> list[dict[str, Any]]:
    for before, row in zip([None, *rows], rows, strict=False):
        row["exponent"] = (
            None if before is None else math.log(row[seconds] / before[seconds]) / math.log(row[size] / before[size])
        )
    return rows


def sweep_of(cells: int, storage: str) -> SweepConfig:
    return resolve_config(
        {
            "name": "growth",
            "storage": storage,
            "data": {"source": "synthetic", "records": 640, "sample_size": 16, "heldout": 8},
            "samples": [0, 1, 2],
            "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
            "models": [{"name": "small", "standin": {}}, {"name": "medium", "standin": {"size": "medium"}}],
            "methods": [{"name": "icu", "cells": [[round(0.01 * cell, 2), 1.0] for cell in range(cells)]}],
        },
        "growth",
    )


def finish(plan: Plan) -> None:
    """A result in storage for every trial."""
    scores = Scores(0.5, 0.01, 2.0, 0.4, 0.1, 3.0)
    provenance = Provenance("0", "", False, config=plan.config.model_dump(mode="json"))
    for trial in plan.trials:
        result = TrialResult(
            trial.trial_id, trial.name, trial.model.name, trial.label, trial.sample, trial.hyperparameters,
            "finished", "", 9, scores, scores, {"total": 60.0}, provenance,
        )  # fmt: skip
        write_result(TrialPaths.of(plan.config.storage, plan.config.name, trial.trial_id), result)


def planning() -> list[dict[str, Any]]:
    fresh, done = [], []
    for cells in CELLS:
        with tempfile.TemporaryDirectory() as storage:
            config = sweep_of(cells, storage)
            data = check_data(config)
            seconds, plan = best_of(3, lambda config=config, data=data: make_plan(config, data))
            fresh.append(_row("plan, nothing done", len(plan.trials), seconds))
            finish(plan)
            seconds, plan = best_of(3, lambda config=config, data=data: make_plan(config, data))
            assert not plan.waiting
            done.append(_row("plan, all finished", len(plan.trials), seconds))
    return [*with_exponents(fresh, "size", "ours"), *with_exponents(done, "size", "ours")]


def starting() -> list[dict[str, Any]]:
    """A cluster of 64 GPUs full of ones; a six heads the line and none of those behind it may pass."""
    nodes = [Node(f"n{number}", 64, 8) for number in range(8)]
    running = [Placed(WorkerGroup(f"r{i}", 1, 5 + i, gpus=1.0), (f"n{i % 8}",), 0.0) for i in range(64)]
    trial = worker_group_of(make_plan(sweep_of(1, "nowhere"), None).trials[0])
    rows = []
    for cells in CELLS:
        waiting = [
            WorkerGroup(f"{trial.trial}{number}", (6, 3, 1)[number % 3], 100.0 + number, gpus=1.0)
            for number in range(6 * cells)
        ]
        seconds, placed = best_of(5, lambda waiting=waiting: next_start(waiting, running, nodes, 1.0))
        assert placed is None
        rows.append(_row("one decision", len(waiting), seconds))
    return with_exponents(rows, "size", "ours")


def _row(case: str, size: int, seconds: float) -> dict[str, Any]:
    return {"case": f"{case} {size}", "size": size, "ours": seconds, "each_ms": 1000 * seconds / size}


def clustered(rows: int, file: Path) -> np.ndarray:
    """(rows, 384) float32 unit vectors in clusters of about 100, memory mapped, the same for the same `rows`."""
    random = np.random.default_rng(rows)
    turn = random.standard_normal((LATENT, WIDTH)).astype(np.float32)
    centres = random.standard_normal((max(1, rows // 100), LATENT)).astype(np.float32)
    vectors = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(rows, WIDTH))
    for start in range(0, rows, SHARD_ROWS):
        count = min(SHARD_ROWS, rows - start)
        inner = centres[random.integers(len(centres), size=count)]
        inner = inner + 0.7 * random.standard_normal((count, LATENT), dtype=np.float32)
        outer = inner @ turn + 1.5 * random.standard_normal((count, WIDTH), dtype=np.float32)
        vectors[start : start + count] = outer / np.linalg.norm(outer, axis=1, keepdims=True)
    vectors.flush()
    return np.load(file, mmap_mode="r")


def question(targets: np.ndarray, rows: int) -> Search:
    """Targets are not in their own pool."""
    allowed = np.ones(rows, dtype=bool)
    allowed[targets] = False
    return Search(targets, allowed, np.arange(rows))


def some_rows(rows: int, count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(1).choice(rows, count, replace=False))


def scan(
    vectors: np.ndarray, asked: Search, make_find: Callable[[np.ndarray], Find]
) -> tuple[float, float, list[list[Neighbour]]]:
    """What one actor does with all shards: seconds of making indexes, seconds of searching, the nearest rows.

    Seconds of one core's time, so that other work on the machine counts less.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    queries = np.ascontiguousarray(vectors[asked.queries])
    found: list[list[int]] = [[] for _ in queries]
    making = searching = 0.0
    bounds = np.linspace(0, len(vectors), -(-len(vectors) // SHARD_ROWS) + 1).astype(int)
    for start, stop in itertools.pairwise(bounds.tolist()):
        block, inside = np.ascontiguousarray(vectors[start:stop]), np.flatnonzero(asked.allowed[start:stop])
        started = time.thread_time()
        find = make_find(block)
        made = time.thread_time()
        for rows, places in zip(found, candidates(find, queries, inside, 1), strict=True):
            rows += (start + places).tolist()
        searching += time.thread_time() - made
        making += made - started
    pairs = zip(asked.queries, found, strict=True)
    return making, searching, [merge(vectors, int(query), rows, asked.rank, 1) for query, rows in pairs]


class PeakMemory:
    """Watches the actors that search and remembers the most resident memory of its own (MiB) that one had.

    Pages of Ray's object store, which all processes share, are left out: they stay resident once touched.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    if b"MapBatches(ShardSearch)" not in (folder / "cmdline").read_bytes():
                        continue
                    status = (folder / "status").read_text()
                except OSError:
                    continue
                own = next((line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")), "0")
                self.mib = max(self.mib, int(own) / 1024)


@contextmanager
def ray_here() -> Iterator[None]:
    """A Ray of one core."""
    import ray

    folder = tempfile.mkdtemp(prefix="icu", dir="/tmp")  # a long path does not fit Ray's sockets
    ray.init(num_cpus=1, include_dashboard=False, _temp_dir=folder, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def pairing(vectors: np.ndarray) -> dict[str, Any]:
    """128 targets, on Ray and by the shards alone; both must find the same."""
    asked, shards = question(some_rows(len(vectors), QUERIES), len(vectors)), -(-len(vectors) // SHARD_ROWS)
    with PeakMemory() as memory:
        started = time.perf_counter()
        found = search(vectors, [asked], 1, shards=shards, actors=1)[0]
        whole = time.perf_counter() - started
    _, seconds, nearest = scan(vectors, asked, exact_shard)
    assert nearest == found
    return {
        "case": f"pairing {len(vectors)}",
        "size": len(vectors),
        "shards": shards,
        "ours": seconds,
        "whole": whole,
        "actor_mib": memory.mib,
        "shard_mib": len(vectors) / shards * WIDTH * 4 / 2**20,
    }


def show(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    print(f"\n{'':<28}" + "".join(f"{heading:>15}" for heading in columns.values()))
    for row in rows:
        values = ("-" if row[name] is None else f"{row[name]:.4g}" for name in columns)
        print(f"{row['case']:<28}" + "".join(f"{value:>15}" for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=POOLS[-1], help="largest pool (default 1500000; 2.3 GB on disk)")
    arguments = parser.parse_args()
    plans, decisions = planning(), starting()
    pairs = []
    with ray_here():
        for rows in (pool for pool in POOLS if pool <= arguments.rows):
            with tempfile.TemporaryDirectory() as place:
                pairs.append(pairing(clustered(rows, Path(place) / "vectors.npy")))
    with_exponents(pairs, "size", "ours")
    if arguments.json:
        print(json.dumps({"rows": [*plans, *decisions, *pairs], "machine": machine()}))
        return
    show([*plans, *decisions], {"ours": "seconds", "each_ms": "ms a trial", "exponent": "exponent"})
    show(
        pairs,
        {
            "ours": "scan s",
            "exponent": "exponent",
            "whole": "whole s",
            "shards": "shards",
            "shard_mib": "shard MiB",
            "actor_mib": "actor peak MiB",
        },
    )


if __name__ == "__main__":
    main()
