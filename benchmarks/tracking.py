"""Does MLflow slow the trials down that it watches?

    python benchmarks/tracking.py [--json] [--trials 32] [--seconds 5]

As many trials as asked for, each a process of its own that writes what a trial writes after every epoch, run twice: by
themselves, and watched by the sweep's `Tracker`, which sends everything to an MLflow server on PostgreSQL. An epoch is
a sleep of `--seconds`, as a GPU's work leaves the processor alone; the paper's epochs are longer. The ratio is that of
the mean times of an epoch, writing included. Needs Debian's postgresql and psycopg.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from table import machine, print_table

from icu_ray.report.tracking.tracker import Tracker
from icu_ray.storage.results import EpochRecord, Provenance, Scores, TrialResult, TrialSpec
from icu_ray.storage.trial_files import TrialPaths, open_sweep, start_trial, write_events, write_result

sys.path.insert(0, str(Path(__file__).parent.parent))
MADE_BY = Provenance("0", "benchmark", False)
EPOCHS = 6


def trial(storage: str, sweep: str, spec: TrialSpec, seconds: float) -> float:
    """Mean seconds of an epoch."""
    paths = TrialPaths.of(storage, sweep, spec.trial_id)
    start_trial(paths, spec)
    history: list[EpochRecord] = []
    began = time.perf_counter()
    for epoch in range(EPOCHS + 1):
        time.sleep(seconds)
        scores = Scores(0.9 - epoch / 20, 0.5, 1.0 + epoch, 0.9, 0.5, 4.0, 0.8, 20.0)
        history.append(EpochRecord(epoch, 100 - epoch, scores, {"forget": -float(epoch)}, {"train": seconds}, 4))
        write_events(paths, history)
    mean = (time.perf_counter() - began) / (EPOCHS + 1)
    known = (spec.trial_id, spec.name, spec.model, spec.method, spec.sample, spec.hyperparameters)
    ends = history[0].scores, history[-1].scores
    write_result(paths, TrialResult(*known, "finished", "done", EPOCHS, *ends, {"total": 1.0}, MADE_BY))
    return mean


def run(storage: str, sweep: str, trials: int, seconds: float, uri: str | None) -> list[float]:
    """Mean seconds of an epoch of every trial."""
    specs = [
        TrialSpec(f"id{i:03}", f"t{i}", "m", "icu", i, {"alpha": 0.5}, EPOCHS, {}, None, MADE_BY) for i in range(trials)
    ]
    open_sweep(storage, sweep, {"name": sweep}, specs, MADE_BY)
    tracker = None if uri is None else Tracker(storage, sweep, uri)
    if tracker is not None:
        tracker.start()
    with multiprocessing.get_context("fork").Pool(trials) as pool:
        means = pool.starmap(trial, [(storage, sweep, spec, seconds) for spec in specs], chunksize=1)
    if tracker is not None and not tracker.finish():
        raise RuntimeError(f"not everything was sent: {tracker.trouble}")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    from tests.support.mlflow_server import mlflow_server
    from tests.support.postgres_server import missing, postgres

    if missing():
        sys.exit(missing())
    with tempfile.TemporaryDirectory(prefix="icupg", dir="/tmp") as name:
        folder = Path(name)
        alone = run(name, "alone", arguments.trials, arguments.seconds, None)
        with postgres(folder) as backend, mlflow_server(folder, backend) as uri:
            watched = run(name, "watched", arguments.trials, arguments.seconds, uri)
    rows: list[dict[str, Any]] = [
        {"case": f"{arguments.trials} trials, {kind}", "ours": pick(watched), "other": pick(alone)}
        for kind, pick in (("mean", lambda values: sum(values) / len(values)), ("slowest", max))
    ]
    rows = [{**row, "ratio": row["ours"] / row["other"]} for row in rows]
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    print_table(rows, {"case": "", "ours": ".3f", "other": ".3f", "ratio": ".4f"})


if __name__ == "__main__":
    main()
