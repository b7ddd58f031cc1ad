"""Which trial starts next: gangs of 1, 3 and 6 workers on nodes, neither starving nor oversubscribing.

Trials wait in the plan's order. The first of the line starts as soon as its gang fits; while it does not fit, the
earliest time at which it will (by the estimated ends of what runs) is reserved for it, and a later trial may start
only if it fits now and leaves that time untouched: because it is over by then, or because the first of the line fits
beside it (EASY backfilling, Lifka 1995, with nodes). An estimate that was too short delays the head of the line by no
more than what is already running, for nothing new is let past it once its reserved time has come.

A gang stands on one node whenever a node is large enough for it, as Ray's PACK strategy places it, and on as few as
possible otherwise. Nothing here knows Ray: the caller tells what runs where and what the nodes can hold.

    placed = next_start(waiting, running, nodes, now=12.5)     # minutes; None while nothing may start
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

_SOON = 1e-6  # a trial that has outlived its estimate is taken to end next


@dataclass(frozen=True)
class Gang:
    """A trial's claim: `workers` equal workers that start together, for about `minutes`."""

    trial: str
    workers: int
    minutes: float
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Node:
    """What one node can hold, or could hold once the autoscaler has added it."""

    name: str
    cpus: float
    gpus: float = 0.0

    def holds(self, gang: Gang) -> int:
        """Workers of `gang` that fit here."""
        # Claims are sums of decimal fractions; the small term keeps 3 * 0.1 from missing 0.3.
        fits = [int(have / need + 1e-9) for have, need in ((self.cpus, gang.cpus), (self.gpus, gang.gpus)) if need > 0]
        return max(0, min(fits, default=gang.workers))

    def without(self, gang: Gang, workers: int) -> Node:
        """This node after `workers` of `gang` have taken their share."""
        return replace(self, cpus=self.cpus - workers * gang.cpus, gpus=self.gpus - workers * gang.gpus)


@dataclass(frozen=True)
class Placed:
    """A started trial: one node name for each worker, and when it started (minutes).

    nodes is empty while the cluster has not said where the workers stand; they are then counted where they fit best.
    """

    gang: Gang
    nodes: tuple[str, ...]
    since: float

    def ends(self, now: float) -> float:
        """Estimated end, never in the past."""
        return max(self.since + self.gang.minutes, now + _SOON)


@dataclass(frozen=True)
class Limits:
    """What the user allows of what the cluster has: workers of all trials together, and trials at a time."""

    workers: int | None = None
    trials: int | None = None

    def allow(self, running: Iterable[Gang], gang: Gang) -> bool:
        """Whether `gang` may run beside `running`."""
        gangs = [*running, gang]
        return (self.workers is None or sum(g.workers for g in gangs) <= self.workers) and (
            self.trials is None or len(gangs) <= self.trials
        )


NO_LIMITS = Limits()


def most_workers(gang: Gang, nodes: Iterable[Node], limits: Limits = NO_LIMITS) -> int:
    """Workers like those of `gang` that the empty cluster could ever give at one time."""
    total = sum(node.holds(gang) for node in nodes)
    return total if limits.workers is None else min(total, limits.workers)


def place(gang: Gang, free: Sequence[Node], largest: int | None = None) -> tuple[str, ...] | None:
    """One node name for each worker, or None where the gang does not fit into what is free.

    largest: workers of the gang that the roomiest empty node holds; a gang that fits on such a node is not spread
    over several. Best fit: the node that has the least room left for the gang, so that large holes stay whole.
    """
    rooms = [(node.holds(gang), number) for number, node in enumerate(free)]
    whole = [(room, number) for room, number in rooms if room >= gang.workers]
    if whole:
        return (free[min(whole)[1]].name,) * gang.workers
    if largest is not None and largest >= gang.workers:
        return None
    names: list[str] = []
    for room, number in sorted(rooms, key=lambda item: (-item[0], item[1])):
        names += [free[number].name] * min(room, gang.workers - len(names))
    return tuple(names) if len(names) == gang.workers else None


def next_start(
    waiting: Sequence[Gang],
    running: Sequence[Placed],
    nodes: Sequence[Node],
    now: float,
    limits: Limits = NO_LIMITS,
) -> Placed | None:
    """The trial of `waiting` (in order) that starts now, with its place; None while none may.

    Call it again after each start: it decides one at a time. A gang that the cluster can never hold is passed over,
    so that it blocks nobody; `most_workers` finds those before anything starts.
    """
    line = [gang for gang in waiting if most_workers(gang, nodes, limits) >= gang.workers]
    if not line:
        return None
    board = _Board(nodes, limits)
    settled = board.settle(running)
    head = line[0]
    spot = board.fit(head, settled)
    if spot is not None:
        return Placed(head, spot, now)
    reserved = _reserve(head, settled, board, now)
    for gang in line[1:]:
        spot = board.fit(gang, settled)
        if spot is None:
            continue
        candidate = Placed(gang, spot, now)
        still_there = [p for p in (*settled, candidate) if p.ends(now) > reserved]
        if candidate.ends(now) <= reserved or board.fit(head, still_there) is not None:
            return candidate
    return None


@dataclass(frozen=True)
class _Board:
    """The cluster's nodes and limits, and what is left of them beside running trials."""

    nodes: Sequence[Node]
    limits: Limits

    def settle(self, running: Sequence[Placed]) -> list[Placed]:
        """`running` with every trial on nodes of the board; those whose place is unknown stand where they fit."""
        known = {node.name for node in self.nodes}
        settled = [p for p in running if p.nodes and set(p.nodes) <= known]
        for placed in running:
            if placed.nodes and set(placed.nodes) <= known:
                continue
            # No room at all: the nodes it was promised are gone, and it waits in Ray's own queue without taking any.
            spot = place(placed.gang, self.free(settled)) or ()
            settled.append(replace(placed, nodes=spot))
        return settled

    def free(self, running: Iterable[Placed]) -> list[Node]:
        """Each node less what stands on it."""
        left = {node.name: node for node in self.nodes}
        for placed in running:
            for name in set(placed.nodes):
                left[name] = left[name].without(placed.gang, placed.nodes.count(name))
        return list(left.values())

    def fit(self, gang: Gang, running: Sequence[Placed]) -> tuple[str, ...] | None:
        """Where `gang` could stand beside `running`."""
        if not self.limits.allow((p.gang for p in running), gang):
            return None
        largest = max(node.holds(gang) for node in self.nodes)
        return place(gang, self.free(running), largest)


def _reserve(head: Gang, running: Sequence[Placed], board: _Board, now: float) -> float:
    """The earliest estimated time at which `head` fits."""
    ends = sorted({p.ends(now) for p in running})
    for time in ends:
        if board.fit(head, [p for p in running if p.ends(now) > time]) is not None:
            return time
    return ends[-1] if ends else now
