"""What does an optimizer step of each method cost, in steps of gradient ascent?

    python benchmarks/method_steps.py [--json] [--quick]

Processor seconds of one optimizer step on a batch of 8 targets, for every built-in method that trains (task_vector: a
step of its fine-tuning) and for the step rules sam and gru, on one thread. All methods take their turns on one model,
the same rows and one engine; each time is the smallest of several rounds. `ratio` is a method's time over that of
`kumpr`, gradient ascent on the targets alone: one forward and backward of 8 rows and Adam. `rows` counts the rows that
a step takes forward and backward, `needs` what the method asks for beyond that, both by its own attributes. What the
original model says of the rows is computed beforehand, as in a trial.

Settings are the defaults, but npo has a retain part and rmu reads layer 1 of these small models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from plain_step import SHALLOW, STANDIN, Shape, new_model, new_rows
from step import ADAM, BATCH, best
from table import machine, print_table

from icu_ray import methods
from icu_ray.config import LossConfig, StepConfig
from icu_ray.methods.base import Batch, Method, Setting
from icu_ray.methods.module import UnlearningModule
from icu_ray.methods.weights import batch_weights
from icu_ray.models.reference import build_reference
from icu_ray.training.engine import Engine, distributed, set_device_environment
from icu_ray.training.step_rules import rule_of

TINY = Shape("2 x 64, 512 words", 64, 2, 2, 512, 64)
BASE = "kumpr"
SETTINGS: Mapping[str, Mapping[str, Setting]] = {"npo": {"retain": "nll"}, "rmu": {"layer": 1}}
RULES = {"npo": "sam", "graddiff": "gru"}
"""Which method each step rule is measured on."""


def cases() -> dict[str, Method]:
    """Every method that is measured, by its name in the table."""
    trained = [name for name in methods.BUILT_IN if methods.method_class(name).trains]
    found = {name: methods.get(name, settings=SETTINGS.get(name)) for name in trained}
    for name, rule in RULES.items():
        told = StepConfig(rule=rule)  # type: ignore[arg-type]
        found[f"{name}, {rule}"] = methods.get(name, settings=SETTINGS.get(name), step=told)
    return found


def rows_of(method: Method) -> int:
    """Rows that a step takes forward and backward. sam takes those of the forget part twice."""
    if method.step is None:
        return BATCH * len(method.objective().sides)
    forget, retain = method.split()
    times = 2 if method.step.rule == "sam" else 1
    return BATCH * (times * len(forget.sides) + len(retain.sides))


def needs_of(method: Method) -> str:
    """What a method asks for beyond the targets and one backward pass."""
    told = {
        "pairs": method.needs_pairs,
        "second answers": method.needs_alternates,
        "original's predictions on pairs": method.needs_reference,
        "original's predictions on targets": method.needs_target_reference,
        "original's token losses": method.needs_reference_nll,
        "original's hidden states": bool(method.reference_layers),
        "a number carried on": bool(method.state()),
        "the weights it began with": method.fine_tunes,
    }
    if method.step is not None:
        told[{"sam": "three gradients", "gru": "two gradients"}[method.step.rule]] = True
    return ", ".join(word for word, is_needed in told.items() if is_needed)


class Steps:
    """Steps of any of these methods on one model, its rows and its engine."""

    def __init__(self, shape: Shape, measured: Mapping[str, Method]) -> None:
        self.model = new_model(shape)
        self.targets, self.pairs, self.answers = (new_rows(shape, BATCH, seed) for seed in (1, 2, 3))
        layers = sorted({layer for method in measured.values() for layer in method.reference_layers})
        self.reference = build_reference(
            self.model,
            self.pairs,
            targets=self.targets,
            compared=self.targets,
            answers={"sentences": self.answers},
            layers=layers,
        ).with_answers("sentences")
        self.module = UnlearningModule(self.model, measured[BASE])
        self.engine = Engine(self.module, ADAM, 0, 1)

    def step(self, method: Method) -> dict[str, float]:
        """One step by the method, which trains what it names alone."""
        self.module.method = method
        self.engine.rule = None if method.step is None else rule_of(method.step)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(method.trains_parameter(name))
        return self.engine.step([self._batch(method)])

    def _batch(self, method: Method) -> Batch:
        everything = np.arange(BATCH)
        pairs = self.pairs if method.needs_pairs else None
        answers = self.answers if method.needs_alternates else None
        weights = batch_weights(
            self.targets.labels,
            None if pairs is None else pairs.labels,
            np.ones(BATCH, dtype=bool),
            self.targets.columns,
            LossConfig(),
            target_rule=method.target_rule,
            pair_rule=method.pair_rule,
            alternates=None if answers is None else (answers.labels, None),
        )
        reference = self.reference.batch(everything, answers=None if answers is None else everything)
        second = None if answers is None else (answers, everything)
        return Batch.gather(self.targets, pairs, everything, weights, reference, alternates=second)


def steps(shape: Shape, repeats: int) -> list[dict[str, Any]]:
    measured = cases()
    running = Steps(shape, measured)
    turns = {name: lambda method=method: running.step(method) for name, method in measured.items()}  # type: ignore[misc]
    times = {name: cpu for name, (_, cpu) in best(turns, repeats).items()}
    running.engine.close()
    return [
        {
            "case": f"{name}, {shape.name}",
            "ours": times[name],
            "other": times[BASE],
            "ratio": times[name] / times[BASE],
            "unit": "cpu s",
            "method": name,
            "shape": shape.name,
            "rows": rows_of(method),
            "needs": needs_of(method),
        }
        for name, method in measured.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tiny model alone, few rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as processor time
    set_device_environment(torch.device("cpu"))
    rows = []
    with distributed(0, 1):
        for shape, repeats in [(TINY, 3)] if arguments.quick else [(STANDIN, 8), (SHALLOW, 3)]:
            rows += steps(shape, repeats)
    if arguments.json:
        print(json.dumps({"rows": rows, "machine": machine()}))
    else:
        columns = {"case": "", "ours": ".3f", "other": ".3f", "unit": "", "ratio": ".2f", "rows": "", "needs": ""}
        print_table(rows, columns)


if __name__ == "__main__":
    main()
