"""A discrete-event simulation of a cluster on which trials start and end, other ways to choose what starts, and bounds.

    told = simulate(groups, true_minutes, nodes, next_start)       # start and end of every trial
    makespan(told) / bounds(groups, true_minutes, len(nodes))[1]   # 1: nothing could be better

schedule.py asks it about the paper's grid.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from icu_ray.plan.schedule import Node, Placed, WorkerGroup, next_start, place

NODE_GPUS = 8
Decide = Callable[[Sequence[WorkerGroup], Sequence[Placed], Sequence[Node], float], Placed | None]
Update = Callable[[Sequence[WorkerGroup], Sequence[Placed], float], tuple[list[WorkerGroup], list[Placed]]]


def simulate(
    line: Sequence[WorkerGroup],
    true: Mapping[str, float],
    nodes: Sequence[Node],
    decide: Decide,
    update: Update | None = None,
) -> dict[str, tuple[float, float]]:
    """Start and end of every trial. update: what is known by now of what waits and runs, and its order."""
    waiting, running, now = list(line), list[Placed](), 0.0
    ends: list[tuple[float, str]] = []
    told: dict[str, tuple[float, float]] = {}
    while waiting or running:
        if update is not None:
            waiting, running = update(waiting, running, now)
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


def makespan(told: Mapping[str, tuple[float, float]]) -> float:
    return max(end for _, end in told.values())
