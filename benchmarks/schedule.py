"""How close to the best possible does the schedule come, and does any large trial starve?

    python benchmarks/schedule.py [--json] [--seeds N]

A discrete-event simulation of the paper's grid: Table I (GPT-Neo 125M, 1.3B, 2.7B on 1, 3, 6 GPUs x five methods x five
samples) and Table III (ten cells x five samples on 125M; five of its trials are Table I's own), planned by icu_ray from
tune_configs/{paper, table3}.yaml and started by plan.schedule.next_start on nodes of 8 GPUs. A trial's true duration is
the plan's overhead plus its epochs, an integer from the triangular distribution on 4..25 with mode 7 and mean 12, drawn
anew for each seed; the plan expects 12. Its pace is what the plan expects, so the epochs alone are to be learnt.

Two worlds. `independent`: every trial's epochs are drawn by themselves, so that none tells of another. `alike`: the
same distribution, but the five samples of a cell (a method with its weights on a model) share 0.7 of the variance, as
the quickstart's do (benchmarks/README.md); cells are independent. In both a trial that runs tells the part of its way
to the thresholds, (epochs / true epochs) ** p with p drawn from 0.5..1.5, about as real curves do.

Makespans are given over `bound` = max(all GPU minutes / GPUs, longest trial), which knows the true durations, and over
`packed`, which also knows that a group stands on one node: three workers do not fit beside six on eight GPUs.

  ours       as a sweep does it: durations learnt as it runs (plan.learnt_durations), what waits in order anew at every
             end (schedule.in_order), backfilling beside a reservation, best fit
  by plan    the plan's order and minutes to the end: most work first (schedule.by_work)
  in order   schedule.in_order with the plan's minutes: nothing is learnt
  fifo       order of the config, and nobody passes the head of the line
  first fit  order of the config, whoever fits starts
  longest    like `by plan`, but ordered by minutes and not by GPU minutes
  Ray's      like `by plan`, but on the node with most room, where Ray puts a placement group by itself
  from first knows all durations from the end of the first trial on: more than can be learnt from trials
  told       knows all durations from the start

The cluster, and the ways that know no order of icu_ray, are in simulated_cluster.py.

Costs: `plan` is the plan's estimate; `slow` has epochs ten times as long, so that the fixed start of a trial weighs
little; `small` has 1, 0.67 and 0.5 minutes an epoch for 125M, 1.3B, 2.7B, so that small trials are the long ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from simulated_cluster import (
    NODE_GPUS,
    Decide,
    Update,
    bounds,
    fifo,
    first_fit,
    makespan,
    on_roomiest,
    simulate,
)
from table import machine

from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.plan.estimates import EXPECTED_EPOCHS, GPU_OVERHEAD_MINUTES
from icu_ray.plan.grid import make_plan
from icu_ray.plan.learnt_durations import Course, Expected, Learnt, expected_of
from icu_ray.plan.schedule import Node, Placed, WorkerGroup, by_work, in_order, next_start
from icu_ray.plan.trial import Trial, worker_group_of

CLUSTERS = (8, 16, 64, 256)
COSTS: Mapping[str, tuple[float, ...]] = {"plan": (), "slow": (0.196, 0.678, 0.704), "small": (1.0, 0.67, 0.5)}
TABLE_I = "methods=[{name: icu}, {name: kumpr}, {name: po}, {name: kl}, {name: llmu}]"

WORLDS = ("independent", "alike")
SHARED = 0.7
"""Of the variance of epochs, by the samples of a cell."""


def grid(cost: str) -> list[Trial]:
    """Tables I and III in the order of the configs; a cell that stands in both runs once."""
    minutes = [f"models.{number}.minutes_per_epoch={value}" for number, value in enumerate(COSTS[cost])]
    trials: dict[str, Trial] = {}
    for config, overrides in (("paper", [TABLE_I, *minutes]), ("table3", minutes[:1])):
        loaded = load_config(find_config(config), [*overrides, "storage=nowhere"])
        # The plan puts the work first; by name is the order of writing as far as first-come order is concerned.
        sizes = {model.name: number for number, model in enumerate(loaded.models)}
        planned = sorted(make_plan(loaded, None).trials, key=lambda trial: (sizes[trial.model.name], trial.sample))
        trials.update((trial.trial_id, trial) for trial in planned)
    return list(trials.values())


def true_epochs(trials: Sequence[Trial], world: str, seed: int) -> dict[str, int]:
    """A drawn number for each trial."""
    draw = random.Random(seed)
    if world == "independent":
        return {trial.trial_id: round(draw.triangular(4, 25, 7)) for trial in trials}
    normal, cells, epochs = statistics.NormalDist(), dict[object, float](), {}
    for trial in trials:
        shared = cells.setdefault(cell_of(expected_of(trial)), draw.gauss(0, 1))
        own = draw.gauss(0, 1)
        part = normal.cdf(math.sqrt(SHARED) * shared + math.sqrt(1 - SHARED) * own)
        rising = 4 + math.sqrt(part * (25 - 4) * (7 - 4))
        falling = 25 - math.sqrt((1 - part) * (25 - 4) * (25 - 7))
        epochs[trial.trial_id] = round(rising if rising < 7 else falling)
    return epochs


def cell_of(expected: Expected) -> object:
    return expected.model, expected.method, expected.cell


def true_minutes(groups: Sequence[WorkerGroup], epochs: Mapping[str, int]) -> dict[str, float]:
    """The duration of each trial."""
    start = GPU_OVERHEAD_MINUTES
    return {group.trial: start + (group.minutes - start) * epochs[group.trial] / EXPECTED_EPOCHS for group in groups}


class Learning:
    """What a sweep would know at any time, and the order that follows."""

    def __init__(self, trials: Sequence[Trial], epochs: Mapping[str, int], nodes: Sequence[Node], seed: int) -> None:
        draw = random.Random(1000 + seed)
        self._epochs, self._nodes = epochs, nodes
        self._expected = {trial.trial_id: expected_of(trial) for trial in trials}
        self._power = {trial.trial_id: draw.uniform(0.5, 1.5) for trial in trials}
        self._known: dict[str, Course] = {}
        """The last that was seen of each trial that has started."""

    def __call__(
        self, waiting: Sequence[WorkerGroup], running: Sequence[Placed], now: float
    ) -> tuple[list[WorkerGroup], list[Placed]]:
        going = {placed.group.trial: self._course(placed, now) for placed in running}
        for name in self._known.keys() - going.keys():
            epochs, expected = self._epochs[name], self._expected[name]
            took = expected.fixed + epochs * expected.pace
            self._known[name] = Course(expected, took, epochs, expected.pace, expected.fixed, 1.0, over=True)
        self._known.update(going)
        learnt = Learnt(self._known.values())
        placed = [
            replace(each, group=replace(each.group, minutes=course.minutes + learnt.left(course)))
            for each, course in zip(running, going.values(), strict=True)
        ]
        line = [replace(group, minutes=learnt.minutes(self._expected[group.trial])) for group in waiting]
        return in_order(line, placed, self._nodes, now), placed

    def _course(self, placed: Placed, now: float) -> Course:
        name, minutes = placed.group.trial, now - placed.since
        expected, most = self._expected[name], self._epochs[name]
        epochs = min(max(0, math.floor((minutes - expected.fixed) / expected.pace + 1e-9)), most - 1)
        part = (epochs / most) ** self._power[name]
        return Course(expected, minutes, epochs, expected.pace if epochs else None, None, part)


def ordered(nodes: Sequence[Node], true: Mapping[str, float] | None = None) -> Update:
    """in_order with the plan's minutes; true: with those from the end of the first trial on."""

    def update(
        waiting: Sequence[WorkerGroup], running: Sequence[Placed], now: float
    ) -> tuple[list[WorkerGroup], list[Placed]]:
        known = true if true is not None and now > 0 else {}
        line = [replace(group, minutes=known.get(group.trial, group.minutes)) for group in waiting]
        placed = [
            replace(each, group=replace(each.group, minutes=known.get(each.group.trial, each.group.minutes)))
            for each in running
        ]
        return in_order(line, placed, nodes, now), placed

    return update


def measure(cost: str, world: str, gpus: int, seeds: int) -> list[dict[str, Any]]:
    """Makespans of one cost model, world and cluster, by policy."""
    trials = grid(cost)
    written = [worker_group_of(trial) for trial in trials]
    nodes = [Node(f"n{number}", 64, NODE_GPUS) for number in range(gpus // NODE_GPUS)]
    by_plan = sorted(written, key=by_work)
    longest = sorted(written, key=lambda group: (-group.minutes, -group.workers))
    policies: dict[str, tuple[Sequence[WorkerGroup], Decide]] = {
        "by plan": (by_plan, next_start),
        "fifo": (written, fifo),
        "first fit": (written, first_fit),
        "longest": (longest, next_start),
        "Ray's": (by_plan, on_roomiest),
    }
    spans: dict[str, list[float]] = {name: [] for name in ("ours", *policies, "in order", "from first", "told")}
    limits: list[tuple[float, float]] = []
    for seed in range(seeds):
        epochs = true_epochs(trials, world, seed)
        true = true_minutes(written, epochs)
        limits.append(bounds(written, true, len(nodes)))
        for name, (line, decide) in policies.items():
            spans[name].append(makespan(simulate(line, true, nodes, decide)))
        told = [replace(group, minutes=true[group.trial]) for group in by_plan]
        for name, line, update in (
            ("ours", by_plan, Learning(trials, epochs, nodes, seed)),
            ("in order", by_plan, ordered(nodes)),
            ("from first", by_plan, ordered(nodes, true)),
            ("told", told, ordered(nodes)),
        ):
            spans[name].append(makespan(simulate(line, true, nodes, next_start, update)))
    rows = []
    for name, values in spans.items():
        over = [span / bound for span, (bound, _) in zip(values, limits, strict=True)]
        packed = [span / strong for span, (_, strong) in zip(values, limits, strict=True)]
        rows.append(
            {
                "case": f"{world} {cost} {gpus} GPUs {name}",
                "minutes": statistics.mean(values),
                "ours": statistics.mean(spans["ours"]),
                "other": statistics.mean(values),
                "ratio": statistics.mean(over),
                "worst": max(over),
                "ratio_packed": statistics.mean(packed),
                "worst_packed": max(packed),
                "unattainable": statistics.mean(strong / bound for bound, strong in limits),
            }
        )
    return rows


def starving(gpus: int) -> dict[str, Any]:
    """When a trial of six starts that stands behind a full cluster's load of small ones and before ten times that."""
    nodes = [Node(f"n{number}", 64, NODE_GPUS) for number in range(gpus // NODE_GPUS)]
    draw = random.Random(0)
    small = [WorkerGroup(f"s{number}", 1, draw.uniform(5, 15), gpus=1.0) for number in range(11 * gpus)]
    line = [*small[:gpus], WorkerGroup("six", 6, 30, gpus=1.0), *small[gpus:]]
    true = {group.trial: group.minutes for group in line}
    ours, other = simulate(line, true, nodes, next_start), simulate(line, true, nodes, first_fit)
    blocked = simulate(line, true, nodes, fifo)
    return {
        "case": f"six of {gpus} GPUs",
        "ours": ours["six"][0],
        "other": other["six"][0],
        "blocked": blocked["six"][0],
        "ratio": other["six"][0] / ours["six"][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=20, help="draws of the true durations (default 20)")
    arguments = parser.parse_args()
    cases = itertools.product(WORLDS, COSTS, CLUSTERS)
    rows = [row for world, cost, gpus in cases for row in measure(cost, world, gpus, arguments.seeds)]
    starved = [starving(gpus) for gpus in CLUSTERS]
    if arguments.json:
        print(json.dumps({"rows": [*rows, *starved], "machine": machine()}))
        return
    print(f"{'case':<38} {'minutes':>8} {'/bound':>7} {'worst':>6} {'/packed':>8} {'worst':>6} {'packed/bound':>13}")
    for row in rows:
        print(
            f"{row['case']:<38} {row['minutes']:>8.2f} {row['ratio']:>7.3f} {row['worst']:>6.3f} "
            f"{row['ratio_packed']:>8.3f} {row['worst_packed']:>6.3f} {row['unattainable']:>13.3f}"
        )
    print(f"\n{'start of the one trial of six, minutes':<40} {'ours':>7} {'fifo':>7} {'first fit':>10}")
    for row in starved:
        print(f"{row['case']:<40} {row['ours']:>7.1f} {row['blocked']:>7.1f} {row['other']:>10.1f}")


if __name__ == "__main__":
    main()
