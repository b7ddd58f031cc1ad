"""How long does a trial take to start, beside a plain nesting of Tune and Train?

    python benchmarks/startup.py [--json] [--trials 4]

The same trials (one worker each, one epoch on a tiny stand-in, one after the other) are run twice: by the sweep, and by
`Tuner(function that calls TorchTrainer(...).fit())` on a `ray.init()` without settings, with the very same training
function. Start-up of a trial: the time since the one before it ended, less what its own epochs and saving took.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from table import machine, print_table
from tiny_sweep import TINY, python

from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.trial_files import TrialPaths, read_result

WORK = ("train", "validate", "save")


def plan_of(folder: Path, name: str, trials: int) -> Plan:
    from icu_ray.config.file import resolve_config

    methods = [{"name": "icu", "alpha": [0.1 * (i + 1) for i in range(trials)]}]
    tree = {**TINY, "name": name, "storage": str(folder), "methods": methods, "resources": {"max_concurrent": 1}}
    return plan_sweep(resolve_config(tree, "benchmark"))


def run_ours(folder: Path, trials: int) -> float:
    """Run by the sweep; returns when its first trial was handed to the cluster (Unix seconds)."""
    from icu_ray.sweep.run import run_sweep

    plan = plan_of(folder, "ours", trials)
    if run_sweep(plan):
        raise RuntimeError("the sweep failed")
    log = (folder / "ours" / "logs" / "driver.log").read_text()
    prepared = next(line for line in log.splitlines() if "prepared:" in line)
    return time.mktime(time.strptime(prepared[:19], "%Y-%m-%d %H:%M:%S"))


def run_plain(folder: Path, trials: int) -> float:
    """Run by a plain nesting; returns when the tuner was started (Unix seconds)."""
    import ray
    from ray import tune
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from icu_ray.storage.provenance import provenance_of
    from icu_ray.storage.trial_files import start_trial
    from icu_ray.sweep.prepare import prepare
    from icu_ray.trial.task import TrialTask, spec_of
    from icu_ray.trial.worker import train_worker

    plan = plan_of(folder, "plain", trials)
    store = str(folder / "store")
    ray.init(log_to_driver=False, logging_level="ERROR")
    prepared = prepare(plan, store)
    provenance = provenance_of(plan.config, "")
    tasks = {
        t.trial_id: TrialTask(
            t,
            prepared.artefacts["small", 0],
            str(folder),
            "plain",
            store,
            0,
            keep_model=True,
            epoch_minutes=None,
            provenance=provenance,
        )
        for t in plan.trials
    }

    def trial(config: dict[str, Any]) -> None:
        task = tasks[config["trial_id"]]
        start_trial(task.paths, spec_of(task.trial, provenance))
        TorchTrainer(
            train_worker,
            train_loop_config={"task": task, "started": time.time()},
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(
                storage_path=str(folder / "plain_train"),
                name=task.trial.trial_id,
                failure_config=FailureConfig(max_failures=0),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    began = time.time()
    tune.Tuner(
        tune.with_resources(trial, {"CPU": 0.01}),
        param_space={"trial_id": tune.grid_search([t.trial_id for t in plan.trials])},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder / "plain_tune"), verbose=0),
    ).fit()
    ray.shutdown()
    return began


def startups(folder: Path, name: str, began: float, trials: int) -> list[float]:
    """Seconds of each trial's start-up, in the order in which the trials ended."""
    plan = plan_of(folder, name, trials)
    results = [read_result(TrialPaths.of(str(folder), name, t.trial_id)) for t in plan.trials]
    found = []
    for result in sorted((r for r in results if r is not None), key=lambda r: r.ended or 0.0):
        assert result.ended is not None and result.status != "failed", result.reason
        found.append(result.ended - began - sum(result.seconds[part] for part in WORK))
        began = result.ended
    assert len(found) == trials
    return found


def measure(trials: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="icu_startup_") as name:
        folder = Path(name)
        times = {}
        # A first sweep of one trial fills the store, so that neither side pays for preparation.
        for mode, count in (("ours", 1), ("plain", trials), ("ours", trials)):
            if mode == "ours":
                shutil.rmtree(folder / "ours", ignore_errors=True)
            said = python(__file__, "--run", mode, "--folder", name, "--trials", str(count), folder=folder)
            began = float(said.strip().splitlines()[-1])
            times[mode] = startups(folder, mode, began, count)
    rows = []
    for case, chosen in (("first trial", slice(0, 1)), ("later trials", slice(1, None))):
        ours, other = (sum(times[m][chosen]) / len(times[m][chosen]) for m in ("ours", "plain"))
        rows.append({"case": case, "ours": ours, "other": other, "ratio": other / ours})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--run", choices=("ours", "plain"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run = run_ours if arguments.run == "ours" else run_plain
        print(f"\n{run(arguments.folder, arguments.trials)}")
        return
    rows = measure(arguments.trials)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
        return
    print_table(rows, {"case": "", "other": ".1f", "ours": ".1f", "ratio": ".1f"})


if __name__ == "__main__":
    main()
