"""Start-up of a trial: from the end of one trial's training to the first step of the next, with one slot for both.

    python benchmarks/startup.py [--json] [--trials 4]

Four ways in one run, each adding one thing to the one before it: a plain TorchTrainer.fit() inside a Tune trial; the
controller looking every 0.1 s instead of every 2 s; the controller inside the reused trainable without helper processes
(icu_ray.trainer); processes that have imported ahead (icu_ray.runtime), which is what a sweep does. A trial imports what
a real one does, trains 3 epochs of a second and reports a checkpoint after each. The first trial is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from icu_ray.runtime import CONTROL, WarmProcesses, connected, quiet, training_environment

WAYS = ("plain nesting", "+ controller looks every 0.1 s", "+ controller in the reused trainable", "+ warm processes")
EPOCHS, EPOCH_SECONDS = 3, 1.0


def note(log: str, trial: str, what: str) -> None:
    """One line a moment; a line this short is written whole."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps([time.time(), trial, what]) + "\n")


def train(config: dict[str, Any]) -> None:
    """What a worker does: import, then epochs that keep one core busy."""
    import deepspeed  # noqa: F401
    import ray.train
    from ray.train import Checkpoint
    from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoForCausalLM  # noqa: F401

    from icu_ray.training import loop  # noqa: F401

    note(config["log"], config["trial"], "step")
    for epoch in range(EPOCHS):
        began = time.process_time()
        while time.process_time() - began < EPOCH_SECONDS:
            sum(range(10_000))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "weights").write_bytes(b"0" * 100_000)
            ray.train.report({"epoch": epoch}, checkpoint=Checkpoint.from_directory(folder))
    note(config["log"], config["trial"], "end")


def trainable(config: dict[str, Any]) -> None:
    """Tune's function: one trainer."""
    from ray import train as ray_train
    from ray import tune
    from ray.train.torch import TorchConfig, TorchTrainer

    from icu_ray.trainer import GangTrainer

    way = config["way"]
    more: dict[str, Any] = {"on_gang": lambda nodes, group: tune.report({"nodes": nodes})} if way >= 2 else {}
    trainer: Any = (GangTrainer if way >= 2 else TorchTrainer)(
        train,
        train_loop_config=config,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray_train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=ray_train.RunConfig(
            storage_path=config["storage"],
            name=config["trial"],
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=2),
            worker_runtime_env=training_environment() if way >= 3 else None,
        ),
        **more,
    )
    trainer.fit()


def run(way: int, trials: int, folder: Path) -> list[float]:
    """Gaps between successive trials, seconds."""
    log = str(folder / "moments.jsonl")
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1" if way >= 1 else "2.0"
    with connected(cpus=2):
        from ray import tune

        warm = WarmProcesses() if way >= 3 else None

        class Ahead(tune.Callback):
            def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
                if warm is not None and "nodes" in result:
                    warm.taken(1)
                    warm.keep(2)

        if warm is not None:
            warm.keep(2)
        tune.Tuner(
            tune.with_resources(trainable, CONTROL),
            param_space={
                "trial": tune.grid_search([f"t{number}" for number in range(trials)]),
                "way": way,
                "log": log,
                "storage": str(folder / "storage"),
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=way >= 2),
            run_config=tune.RunConfig(storage_path=str(folder), name="tune", verbose=0, callbacks=[Ahead()]),
        ).fit()
    moments = [json.loads(line) for line in Path(log).read_text().splitlines()]
    steps = sorted(moment for moment, _, what in moments if what == "step")
    ends = sorted(moment for moment, _, what in moments if what == "end")
    if len(ends) != trials:
        raise RuntimeError(f"{len(ends)} of {trials} trials ended; see the log")
    return [after - before for before, after in zip(ends, steps[1:], strict=False)]


def main() -> None:
    """Measure every way and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=4)
    arguments = parser.parse_args()
    rows = []
    for way, name in enumerate(WAYS):
        with tempfile.TemporaryDirectory(prefix="icu_startup_") as folder:
            with quiet(Path(folder) / "ray.log"):
                gaps = run(way, arguments.trials, Path(folder))
        rows.append({"case": name, "seconds": round(statistics.median(gaps), 2), "worst": round(max(gaps), 2)})
        if not arguments.json:
            print(f"{name:40} median {rows[-1]['seconds']:6.2f} s   worst {rows[-1]['worst']:6.2f} s", flush=True)
    plain = rows[0]["seconds"]
    table = [{**row, "ours": row["seconds"], "other": plain, "ratio": round(plain / row["seconds"], 2)} for row in rows]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    if arguments.json:
        print(json.dumps({"rows": table, "machine": machine}))
    else:
        print(f"{plain / rows[-1]['seconds']:.1f} times faster; {machine}")


if __name__ == "__main__":
    main()
