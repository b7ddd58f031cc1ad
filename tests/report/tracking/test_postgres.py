"""MLflow on a real PostgreSQL with many trials writing at once: no metric is lost, and the trials never wait for it.

Needs: postgresql.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from icu_ray.report.tracking.metrics import epoch_metrics
from icu_ray.report.tracking.tracker import Tracker
from icu_ray.storage.results import EpochRecord, Provenance, Scores, TrialResult, TrialSpec
from icu_ray.storage.trial_files import TrialPaths, open_sweep, start_trial, write_events, write_result
from tests.support.mlflow_server import mlflow_server
from tests.support.postgres_server import missing, postgres

TRIALS, EPOCHS, SECONDS = 32, 6, 0.5
MADE_BY = Provenance("0", "c", False)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="icupg", dir="/tmp") as name:
        folder = Path(name)
        with postgres(folder) as backend, mlflow_server(folder, backend) as address:
            yield address


def record(trial: int, epoch: int) -> EpochRecord:
    scores = Scores(0.9 - epoch / 20 - trial / 1000, 0.5, 1.0 + epoch, 0.9, 0.5, 4.0, 0.8, 20.0 + trial)
    return EpochRecord(epoch, 100 - epoch, scores, {"forget": -float(epoch)}, {"train": SECONDS}, 4)


def test_thirty_two_trials_at_once_lose_nothing(uri: str, tmp_path: Path) -> None:
    storage = str(tmp_path)
    specs = [
        TrialSpec(f"id{i:02}", f"t{i}", "m", "icu", i, {"alpha": 0.5}, EPOCHS, {}, None, MADE_BY) for i in range(TRIALS)
    ]
    open_sweep(storage, "many", {"name": "many"}, specs, MADE_BY)
    waited: list[float] = []

    def trial(number: int) -> None:
        paths = TrialPaths.of(storage, "many", specs[number].trial_id)
        start_trial(paths, specs[number])
        history: list[EpochRecord] = []
        for epoch in range(EPOCHS + 1):
            history.append(record(number, epoch))
            began = time.monotonic()
            write_events(paths, history)
            waited.append(time.monotonic() - began)
            time.sleep(SECONDS)
        spec = specs[number]
        known = (spec.trial_id, spec.name, spec.model, spec.method, spec.sample, spec.hyperparameters)
        scores = history[0].scores, history[-1].scores
        write_result(paths, TrialResult(*known, "finished", "done", EPOCHS, *scores, {"total": 1.0}, MADE_BY))

    tracker = Tracker(storage, "many", uri, every_seconds=0.2)
    tracker.start()
    threads = [threading.Thread(target=trial, args=(number,)) for number in range(TRIALS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trained = time.monotonic() - began
    assert tracker.finish(), tracker.trouble
    # A trial writes a file and goes on; whatever the server does, it never waits for it.
    assert sorted(waited)[len(waited) // 2] < 0.1 * SECONDS
    assert trained < 3 * (EPOCHS + 1) * SECONDS + 5

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("many")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], max_results=100)}
    assert len(runs) == TRIALS + 1
    for number in range(TRIALS):
        run = runs[f"t{number}"]
        assert run.info.status == "FINISHED"
        for name in ("ma", "ppl_heldout", "loss/forget", "active_samples"):
            told = {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}
            expected = {epoch: epoch_metrics(record(number, epoch))[name] for epoch in range(EPOCHS + 1)}
            assert told == pytest.approx(expected)
