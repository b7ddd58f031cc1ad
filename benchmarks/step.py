"""How fast is a training step, and what do forgotten targets save?

    python benchmarks/step.py [--json] [--quick]

Tokens per second (targets and pairs counted) of one optimizer step on a batch of 8: ours (one forward, losses in
chunks), ours with two forwards (loss.joint_forward=false), and the plain form (benchmarks/plain_step.py), in turn on
the same engine, model and optimizer. Then seconds of an epoch of 64 targets of which some are forgotten: the plain
form on the authors' batches, where they keep their slots and run along, train.batching=slots (they are left out of the
forward) and repack (the epoch gets shorter). Every number is the smallest of several runs; `cpu` is the ratio of
processor seconds, which neighbours on the machine disturb less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import numpy as np
import torch
from plain_step import ALPHA, BETA, FORMS, NEO_125M, SHALLOW, STANDIN, EitherForm, Shape, new_model, new_rows
from table import machine, print_table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from icu_ray.config import LossConfig, TrainConfig
from icu_ray.data.examples import TokenRows
from icu_ray.methods.base import Batch
from icu_ray.methods.weights import batch_weights
from icu_ray.models.reference import Reference, build_reference
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.training.batches import epoch_batches
from icu_ray.training.engine import Engine, distributed, set_device_environment
from icu_ray.training.engine_settings import EngineSettings
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.records import TrialData

BATCH, EPOCH = 8, 64
ADAM = EngineSettings(1e-6, (0.9, 0.98), 1e-8, BATCH, 1)


def best(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Smallest clock and processor seconds of each, taken in turn after one round that does not count."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(repeats + 1):
        for name, run in runs.items():
            clock, cpu = time.perf_counter(), time.process_time()
            run()
            taken = time.perf_counter() - clock, time.process_time() - cpu
            if round_:
                found[name].append(taken)
    return {name: (min(c for c, _ in taken), min(p for _, p in taken)) for name, taken in found.items()}


def gather(targets: TokenRows, pairs: TokenRows, chosen: np.ndarray, active: np.ndarray, reference: Reference) -> Batch:
    weights = batch_weights(targets.labels[chosen], pairs.labels[chosen], active, targets.columns, LossConfig())
    return Batch.gather(targets, pairs, chosen, weights, reference.batch(chosen))


def steps(shape: Shape, repeats: int) -> list[dict[str, Any]]:
    model, targets, pairs = new_model(shape), new_rows(shape, BATCH, 1), new_rows(shape, BATCH, 2)
    references = {cache: build_reference(model, pairs, cache) for cache in ("hidden", "probs")}  # type: ignore[arg-type]
    module = EitherForm(model)
    engine = Engine(module, ADAM, 0, 1)
    everything = np.arange(BATCH)

    def step(form: str) -> dict[str, float]:
        module.form = form
        reference = references["probs" if form == "plain" else "hidden"]
        return engine.step([gather(targets, pairs, everything, np.ones(BATCH, dtype=bool), reference)])

    times = best({form: lambda form=form: step(form) for form in FORMS}, repeats)  # type: ignore[misc]
    engine.close()
    tokens = 2 * BATCH * shape.length
    return [
        {
            "case": f"step {shape.name}, {form}",
            "ours": tokens / times[form][0],
            "other": tokens / times["plain"][0],
            "ratio": times["plain"][0] / times[form][0],
            "cpu": times["plain"][1] / times[form][1],
            "unit": "tokens/s",
        }
        for form in FORMS[:2]
    ]


def epochs(shape: Shape, repeats: int, shares: Sequence[float]) -> list[dict[str, Any]]:
    targets, pairs = new_rows(shape, EPOCH, 1), new_rows(shape, EPOCH, 2)
    # Only validation reads texts, and none is run here.
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    trials = {}
    for batching in ("slots", "repack"):
        model = new_model(shape)
        settings = TrialSettings("icu", ALPHA, BETA, ADAM.lr, BATCH, 1, train=TrainConfig(batching=batching))  # type: ignore[arg-type]
        data = TrialData(targets, pairs, reference=build_reference(model, pairs))
        trials[batching] = EpochTrainer(settings, data, model, tokenizer, 0, 1)
    model = new_model(shape)
    dense = build_reference(model, pairs, "probs")
    engine = Engine(EitherForm(model, "plain"), ADAM, 0, 1)

    def plain(active: np.ndarray) -> None:
        order = epoch_batches(active, seed=42, epoch=1, batch_size=BATCH, settings=TrainConfig())
        for chosen in order:
            engine.step([gather(targets, pairs, chosen, active[chosen], dense)])

    rows = []
    for share in shares:
        active = np.random.default_rng(0).permutation(EPOCH) >= round(share * EPOCH)
        times = best(
            {
                "plain": lambda active=active: plain(active),  # type: ignore[misc]
                **{
                    name: lambda trial=trial, active=active: trial.train(1, active)  # type: ignore[misc]
                    for name, trial in trials.items()
                },
            },
            repeats,
        )
        rows += [
            {
                "case": f"epoch {shape.name}, {share:.0%} forgotten, {name}",
                "ours": times[name][0],
                "other": times["plain"][0],
                "ratio": times["plain"][0] / times[name][0],
                "cpu": times["plain"][1] / times[name][1],
                "unit": "s",
            }
            for name in trials
        ]
    for running in (engine, *(trial.engine for trial in trials.values())):
        running.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the stand-in's shape alone, few repeats")
    arguments = parser.parse_args()
    set_device_environment(torch.device("cpu"))
    rows = []
    with distributed(0, 1):
        for shape, repeats in ((STANDIN, 8), (SHALLOW, 4), (NEO_125M, 2))[: 1 if arguments.quick else 3]:
            rows += steps(shape, repeats)
        rows += epochs(STANDIN, 1 if arguments.quick else 3, (0.5,) if arguments.quick else (0.0, 0.25, 0.5, 0.9))
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
    else:
        print_table(rows, {"case": "", "ours": ",.2f", "other": ",.2f", "unit": "", "ratio": ".2f", "cpu": ".2f"})


if __name__ == "__main__":
    main()
