"""Ray's own Prometheus endpoint carries the sweep's metrics.

Needs: one Ray.
"""

from __future__ import annotations

import multiprocessing
import re
import time
import urllib.request
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from icu_ray.config.file import resolve_config
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.results import EpochRecord, Scores

SCORES = Scores(0.7, 0.1, 1.0, 0.5, 0.2, 3.0)
WANTED = {
    'ray_icu_trials{.*state="finished".*} 2.0',
    'ray_icu_trials{.*state="waiting".*} 1.0',
    'ray_icu_trials{.*state="failed".*} 0.0',
    "ray_icu_epochs_total{.*} 1.0",
    'ray_icu_samples_left{.*trial="t".*} 20.0',
    f'ray_icu_tokens_per_second{{.*trial="t".*}} {2 * 32 * 200 / 2.0}',
}


def missing_in_prometheus(ray_address: str) -> tuple[set[str], list[str]]:
    """What a driver's metrics lack at the endpoint in the end, and the endpoint's lines of this project."""
    import ray

    from icu_ray.sweep.prometheus_metrics import PrometheusMetrics

    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    tree = {"name": "watched", "models": [{"name": "small", "standin": {}}], "data": {"source": "synthetic"}}
    metrics = PrometheusMetrics(plan_sweep(resolve_config(tree, "test"), dry_run=True))
    first = EpochRecord(0, 32, SCORES)
    second = EpochRecord(1, 20, SCORES, seconds={"train": 2.0})
    metrics.observe(Counter(running=1, waiting=3), {"t": (first,)})
    metrics.observe(Counter(running=1, finished=2, waiting=1), {"t": (first, second)})
    metrics.observe(Counter(running=1, finished=2, waiting=1), {"t": (first, second)})
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, missing, text = time.monotonic() + 180, WANTED, ""
    while missing and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(address, timeout=10) as answer:
            text = answer.read().decode()
        missing = {each for each in WANTED if not re.search(each, text)}
    return missing, [line for line in text.splitlines() if "icu" in line]


def test_prometheus_sees_the_sweep(ray_address: str) -> None:
    # A process that has been connected to Ray before counts twice (Ray 2.60 keeps the exporter of each connection), and
    # this one may have been, for the tests of another file.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        missing, lines = fresh.submit(missing_in_prometheus, ray_address).result()
    assert not missing, lines
