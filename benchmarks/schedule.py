"""How close to the best possible does the schedule come, and does any large trial starve?

    python benchmarks/schedule.py [--json] [--seeds N]

A discrete-event simulation of the paper's grid: Table I (GPT-Neo 125M, 1.3B, 2.7B on 1, 3, 6 GPUs x five methods x five
samples) and Table III (ten cells x five samples on 125M; five of its trials are Table I's own), planned by icu_ray from
tune_configs/{paper, table3}.yaml and started by plan.schedule.next_start on nodes of 8 GPUs. A trial's true duration is
the plan's overhead plus its epochs, an integer from the triangular distribution on 4..25 with mode 7 and mean 12, drawn
anew for each seed; the schedule is told the estimate (12 epochs) only.

Makespans are given over `bound` = max(all GPU minutes / GPUs, longest trial), which knows the true durations, and over
`packed`, which also knows that a group stands on one node: three workers do not fit beside six on eight GPUs.

  ours       most work first (schedule.by_work), backfilling beside a reservation, best fit
  fifo       order of the config, and nobody passes the head of the line
  first fit  order of the config, whoever fits starts
  longest    like ours, but ordered by minutes and not by GPU minutes
  Ray's      like ours, but on the node with most room, where Ray puts a placement group by itself
  told       like ours, with the true durations as estimates: what better estimates could give at most

Costs: `plan` is the plan's estimate; `slow` has epochs ten times as long, so that the fixed start of a trial weighs
little; `small` has 1, 0.67 and 0.5 minutes an epoch for 125M, 1.3B, 2.7B, so that small trials are the long ones.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from table import machine

from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.plan.estimates import EXPECTED_EPOCHS, GPU_OVERHEAD_MINUTES
from icu_ray.plan.grid import make_plan
from icu_ray.plan.schedule import Node, Placed, WorkerGroup, by_work, next_start, place
from icu_ray.plan.trial import worker_group_of

NODE_GPUS = 8
CLUSTERS = (8, 16, 64, 256)
COSTS: Mapping[str, tuple[float, ...]] = {"plan": (), "slow": (0.196, 0.678, 0.704), "small": (1.0, 0.67, 0.5)}
TABLE_I = "methods=[{name: icu}, {name: kumpr}, {name: po}, {name: kl}, {name: llmu}]"

Decide = Callable[[Sequence[WorkerGroup], Sequence[Placed], Sequence[Node], float], Placed | None]


def grid(cost: str) -> list[WorkerGroup]:
    """Worker groups of Tables I and III in the order of the configs; a cell that stands in both runs once."""
    minutes = [f"models.{number}.minutes_per_epoch={value}" for number, value in enumerate(COSTS[cost])]
    groups: dict[str, WorkerGroup] = {}
    for config, overrides in (("paper", [TABLE_I, *minutes]), ("table3", minutes[:1])):
        loaded = load_config(find_config(config), [*overrides, "storage=nowhere"])
        # The plan puts the work first; by name is the order of writing as far as first-come order is concerned.
        sizes = {model.name: number for number, model in enumerate(loaded.models)}
        planned = sorted(make_plan(loaded, None).trials, key=lambda trial: (sizes[trial.model.name], trial.sample))
        groups.update((trial.trial_id, worker_group_of(trial)) for trial in planned)
    return list(groups.values())


def true_minutes(groups: Sequence[WorkerGroup], seed: int) -> dict[str, float]:
    """A drawn duration for each trial."""
    draw = random.Random(seed)
    epochs = {group.trial: round(draw.triangular(4, 25, 7)) for group in groups}
    start = GPU_OVERHEAD_MINUTES
    return {group.trial: start + (group.minutes - start) * epochs[group.trial] / EXPECTED_EPOCHS for group in groups}


def simulate(
    line: Sequence[WorkerGroup], true: Mapping[str, float], nodes: Sequence[Node], decide: Decide
) -> dict[str, tuple[float, float]]:
    """Start and end of every trial."""
    waiting, running, now = list(line), list[Placed](), 0.0
    ends: list[tuple[float, str]] = []
    told: dict[str, tuple[float, float]] = {}
    while waiting or running:
        while (placed := decide(waiting, running, nodes, now)) is not None:
            waiting.remove(placed.group)
            running.append(placed)
            told[placed.group.trial] = (now, now + true[placed.group.trial])
            heapq.heappush(ends, (now + true[placed.group.trial], placed.group.trial))
        now, over = heapq.heappop(ends)
        running = [each for each in running if each.group.trial != over]
    return told


def free(nodes: Sequence[Node], running: Sequence[Placed]) -> list[Node]:
    left = {node.name: node for node in nodes}
    for placed in running:
        for name in placed.nodes:
            left[name] = left[name].without(placed.group, 1)
    return list(left.values())


def _starts(
    waiting: Sequence[WorkerGroup], running: Sequence[Placed], nodes: Sequence[Node], now: float
) -> Iterator[Placed | None]:
    """For each waiting trial in turn: started where it fits, None where it does not."""
    room, known = free(nodes, running), dict[int, tuple[str, ...] | None]()
    for group in waiting:
        if group.workers not in known:
            known[group.workers] = place(group, room, NODE_GPUS)
        spot = known[group.workers]
        yield None if spot is None else Placed(group, spot, now)


def fifo(waiting: Sequence[WorkerGroup], running: Sequence[Placed], nodes: Sequence[Node], now: float) -> Placed | None:
    return next(_starts(waiting, running, nodes, now), None)


def first_fit(
    waiting: Sequence[WorkerGroup], running: Sequence[Placed], nodes: Sequence[Node], now: float
) -> Placed | None:
    return next((started for started in _starts(waiting, running, nodes, now) if started is not None), None)


def on_roomiest(
    waiting: Sequence[WorkerGroup], running: Sequence[Placed], nodes: Sequence[Node], now: float
) -> Placed | None:
    """The schedule's choice of trial; the place as Ray's PACK finds it: the first worker where most is left."""
    placed = next_start(waiting, running, nodes, now)
    if placed is None:
        return None
    spot: list[str] = []
    for node in sorted(free(nodes, running), key=lambda node: -node.gpus):
        spot += [node.name] * min(node.holds(placed.group), placed.group.workers - len(spot))
    return replace(placed, nodes=tuple(spot))


def bounds(groups: Sequence[WorkerGroup], true: Mapping[str, float], nodes: int) -> tuple[float, float]:
    """(bound, packed): what no schedule can beat, without and with nodes.

    packed counts a trial by dual feasible functions of its share x of a node (Fekete and Schepers 2001, u^(k)): x
    itself where (k + 1) x is whole, else floor((k + 1) x) / k; together on one node these never exceed 1.
    """
    longest = max(true.values())
    work = sum(true[group.trial] * group.workers for group in groups) / (nodes * NODE_GPUS)
    packed = max(
        sum(true[group.trial] * _share(group.workers, k) for group in groups) / nodes for k in range(1, NODE_GPUS)
    )
    return max(work, longest), max(work, longest, packed)


def _share(workers: int, k: int) -> float:
    whole, rest = divmod((k + 1) * workers, NODE_GPUS)
    return workers / NODE_GPUS if rest == 0 else whole / k


def measure(cost: str, gpus: int, seeds: int) -> list[dict[str, Any]]:
    """Makespans of one cost model and cluster, by policy."""
    written = grid(cost)
    nodes = [Node(f"n{number}", 64, NODE_GPUS) for number in range(gpus // NODE_GPUS)]
    ours = sorted(written, key=by_work)
    longest = sorted(written, key=lambda group: (-group.minutes, -group.workers))
    policies: dict[str, tuple[Sequence[WorkerGroup], Decide]] = {
        "ours": (ours, next_start),
        "fifo": (written, fifo),
        "first fit": (written, first_fit),
        "longest": (longest, next_start),
        "Ray's": (ours, on_roomiest),
    }
    spans: dict[str, list[float]] = {name: [] for name in (*policies, "told")}
    limits: list[tuple[float, float]] = []
    for seed in range(seeds):
        true = true_minutes(written, seed)
        limits.append(bounds(written, true, len(nodes)))
        for name, (line, decide) in policies.items():
            spans[name].append(makespan(simulate(line, true, nodes, decide)))
        told = [replace(group, minutes=true[group.trial]) for group in written]
        spans["told"].append(makespan(simulate(sorted(told, key=by_work), true, nodes, next_start)))
    rows = []
    for name, values in spans.items():
        over = [span / bound for span, (bound, _) in zip(values, limits, strict=True)]
        packed = [span / strong for span, (_, strong) in zip(values, limits, strict=True)]
        rows.append(
            {
                "case": f"{cost} {gpus} GPUs {name}",
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


def makespan(told: Mapping[str, tuple[float, float]]) -> float:
    return max(end for _, end in told.values())


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
    rows = [row for cost in COSTS for gpus in CLUSTERS for row in measure(cost, gpus, arguments.seeds)]
    starved = [starving(gpus) for gpus in CLUSTERS]
    if arguments.json:
        print(json.dumps({"rows": [*rows, *starved], "machine": machine()}))
        return
    print(f"{'case':<26} {'minutes':>8} {'/bound':>7} {'worst':>6} {'/packed':>8} {'worst':>6} {'packed/bound':>13}")
    for row in rows:
        print(
            f"{row['case']:<26} {row['minutes']:>8.2f} {row['ratio']:>7.3f} {row['worst']:>6.3f} "
            f"{row['ratio_packed']:>8.3f} {row['worst_packed']:>6.3f} {row['unattainable']:>13.3f}"
        )
    print(f"\n{'start of the one trial of six, minutes':<40} {'ours':>7} {'fifo':>7} {'first fit':>10}")
    for row in starved:
        print(f"{row['case']:<40} {row['ours']:>7.1f} {row['blocked']:>7.1f} {row['other']:>10.1f}")


if __name__ == "__main__":
    main()
