"""Which trial starts next: groups of 1, 3 and 6 workers on nodes, neither starving nor oversubscribing.

Trials wait in the plan's order. The first of the line starts as soon as its group fits; while it does not fit, the
earliest time at which it will (by the estimated ends of what runs) is reserved for it, and a later trial may start
only if it fits now and leaves that time untouched: because it is over by then, or because the first of the line fits
beside it (EASY backfilling, Lifka 1995, with nodes). Estimates that were too short delay the head of the line by no
more than those trials overrun: once its reserved time has come and what should be over still runs, nothing is let past
it to a node where it could stand as soon as some of those end, for nobody knows in which order they will.

The plan's order is by work (`by_work`): a group of six leaves a node of eight to trials of one, which fill the gaps
later, and the other way round it would be the groups that wait for a whole node at the end. What waits is put in order
anew as durations are learnt (`in_order`, learnt_durations.py); towards the end the longest come first, so that none is
left running alone.

A group stands on one node whenever a node is large enough for it, as Ray's PACK strategy places it, and on as few as
possible otherwise. Nothing here knows Ray: the caller tells what runs where and what the nodes can hold.

    waiting = in_order(waiting, running, nodes, now=12.5)
    placed = next_start(waiting, running, nodes, now=12.5)     # minutes; None while nothing may start
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_SOON = 1e-6  # a trial that has outlived its estimate is taken to end next


@dataclass(frozen=True)
class WorkerGroup:
    """A trial's claim: `workers` equal workers that start together, for about `minutes`."""

    trial: str
    workers: int
    minutes: float
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def shape(self) -> tuple[int, float, float]:
        """What decides where it fits."""
        return self.workers, self.cpus, self.gpus

    @property
    def claim(self) -> float:
        """GPUs of all its workers, without any their CPUs."""
        return self.workers * (self.gpus or self.cpus)


def by_work(group: WorkerGroup) -> tuple[float, float]:
    """Sorting key of the line: most GPU minutes (CPU minutes without GPUs) first, of equals the longer one."""
    return -group.claim * group.minutes, -group.minutes


def by_length(group: WorkerGroup) -> tuple[float, float]:
    """Sorting key: the longest first, of equals the one that claims more."""
    return -group.minutes, -group.claim


@dataclass(frozen=True)
class Node:
    """What one node can hold, or could hold once the autoscaler has added it."""

    name: str
    cpus: float
    gpus: float = 0.0

    def holds(self, group: WorkerGroup) -> int:
        """Workers of `group` that fit here."""
        # Claims are sums of decimal fractions; the small term keeps 3 * 0.1 from missing 0.3.
        fits = [
            int(have / need + 1e-9) for have, need in ((self.cpus, group.cpus), (self.gpus, group.gpus)) if need > 0
        ]
        return max(0, min(fits, default=group.workers))

    def without(self, group: WorkerGroup, workers: int) -> Node:
        """This node after `workers` of `group` have taken their share."""
        return Node(self.name, self.cpus - workers * group.cpus, self.gpus - workers * group.gpus)


@dataclass(frozen=True)
class Placed:
    """A started trial: one node name for each worker, and when it started (minutes).

    nodes is empty while the cluster has not said where the workers stand; they are then counted where they fit best.
    """

    group: WorkerGroup
    nodes: tuple[str, ...]
    since: float

    @property
    def node(self) -> str | None:
        """The one node of the whole group; None where it stands on several, or nobody knows where."""
        return self.nodes[0] if len(set(self.nodes)) == 1 else None

    def ends(self, now: float) -> float:
        """Estimated end, never in the past."""
        return max(self.since + self.group.minutes, now + _SOON)


@dataclass(frozen=True)
class Limits:
    """What the user allows of what the cluster has: workers of all trials together, and trials at a time."""

    workers: int | None = None
    trials: int | None = None

    def allow(self, running: Iterable[WorkerGroup], group: WorkerGroup) -> bool:
        """Whether `group` may run beside `running`."""
        groups = [*running, group]
        return (self.workers is None or sum(g.workers for g in groups) <= self.workers) and (
            self.trials is None or len(groups) <= self.trials
        )


NO_LIMITS = Limits()


def in_order(
    waiting: Sequence[WorkerGroup],
    running: Sequence[Placed],
    nodes: Sequence[Node],
    now: float,
    limits: Limits = NO_LIMITS,
) -> list[WorkerGroup]:
    """`waiting` in the order in which they should start: by work, or by length where the longest outlasts the rest.

    Once the nodes could have done all that is left in less than the longest of `waiting` takes, it is not the work that
    decides when the last trial ends, but when that one starts.
    """
    if not waiting:
        return []
    left = [(group, group.minutes) for group in waiting]
    left += [(placed.group, placed.ends(now) - now) for placed in running]
    shares: list[tuple[float, float | None]] = [(sum(minutes for _, minutes in left), limits.trials)]
    shares += [(sum(minutes * group.workers for group, minutes in left), limits.workers)]
    for gpus, room in ((True, sum(node.gpus for node in nodes)), (False, sum(node.cpus for node in nodes))):
        shares += [(sum(minutes * group.claim for group, minutes in left if (group.gpus > 0) is gpus), room)]
    rest = max((work / room for work, room in shares if room), default=math.inf)
    longest = max(group.minutes for group in waiting)
    return sorted(waiting, key=by_length if longest >= rest else by_work)


def most_workers(group: WorkerGroup, nodes: Iterable[Node], limits: Limits = NO_LIMITS) -> int:
    """Workers like those of `group` that the empty cluster could ever give at one time."""
    total = sum(node.holds(group) for node in nodes)
    return total if limits.workers is None else min(total, limits.workers)


def places(group: WorkerGroup, free: Sequence[Node], largest: int | None = None) -> Iterator[tuple[str, ...]]:
    """Every way to put the group into what is free, best first: one node name for each worker.

    largest: workers of the group that the roomiest empty node holds; a group that fits on such a node is not spread
    over several. Best fit: the node that has the least room left for the group comes first, so that large holes stay
    whole.
    """
    rooms = [(node.holds(group), number) for number, node in enumerate(free)]
    whole = sorted((room, number) for room, number in rooms if room >= group.workers)
    if whole or (largest is not None and largest >= group.workers):
        yield from ((free[number].name,) * group.workers for _, number in whole)
        return
    names: list[str] = []
    for room, number in sorted(rooms, key=lambda item: (-item[0], item[1])):
        names += [free[number].name] * min(room, group.workers - len(names))
    if len(names) == group.workers:
        yield tuple(names)


def place(group: WorkerGroup, free: Sequence[Node], largest: int | None = None) -> tuple[str, ...] | None:
    """The best of `places`, None where the group does not fit."""
    return next(places(group, free, largest), None)


def next_start(
    waiting: Sequence[WorkerGroup],
    running: Sequence[Placed],
    nodes: Sequence[Node],
    now: float,
    limits: Limits = NO_LIMITS,
) -> Placed | None:
    """The trial of `waiting` (in order) that starts now, with its place; None while none may.

    Call it again after each start: it decides one at a time. A group that the cluster can never hold is passed over,
    so that it blocks nobody; `most_workers` finds those before anything starts. The time of a call grows with the
    number of waiting trials only by a look at each.
    """
    board = _Board(nodes, limits)
    line = board.possible(waiting)
    head = next(line, None)
    if head is None:
        return None
    settled = board.settle(running)
    spot = next(board.spots(head, settled), None)
    if spot is not None:
        return Placed(head, spot, now)
    reserved = _reserve(head, settled, board, now)
    staying = [p for p in settled if p.ends(now) > reserved]
    has_come = reserved <= now + _SOON
    kept = board.stands(head, staying) if has_come else set()
    # Where a group may stand for a while, and where for as long as it likes, is the same for all of one shape.
    known: dict[tuple[int, float, float], tuple[tuple[str, ...] | None, tuple[str, ...] | None]] = {}
    for group in line:
        if group.shape not in known:
            spots = list(board.spots(group, settled))
            # While nobody knows which overdue trial ends first, all of them still count against the limits.
            allowed = not has_come or limits.allow([*(p.group for p in settled), group], head)
            beside = (
                s
                for s in spots
                if allowed and kept.isdisjoint(s) and board.fits(head, [*staying, Placed(group, s, now)])
            )
            known[group.shape] = spots[0] if spots else None, next(beside, None)
        soon, beside_head = known[group.shape]
        if soon is not None and Placed(group, soon, now).ends(now) <= reserved:
            return Placed(group, soon, now)
        if beside_head is not None:
            return Placed(group, beside_head, now)
    return None


@dataclass(frozen=True)
class _Board:
    """The cluster's nodes and limits, and what is left of them beside running trials."""

    nodes: Sequence[Node]
    limits: Limits

    def possible(self, waiting: Sequence[WorkerGroup]) -> Iterator[WorkerGroup]:
        """Those of `waiting` that the empty cluster could hold."""
        known: dict[tuple[int, float, float], bool] = {}
        for group in waiting:
            if group.shape not in known:
                known[group.shape] = most_workers(group, self.nodes, self.limits) >= group.workers
            if known[group.shape]:
                yield group

    def settle(self, running: Sequence[Placed]) -> list[Placed]:
        """`running` with every trial on nodes of the board; those whose place is unknown stand where they fit."""
        names = {node.name for node in self.nodes}
        settled = [p for p in running if p.nodes and set(p.nodes) <= names]
        for placed in running:
            if placed.nodes and set(placed.nodes) <= names:
                continue
            # No room at all: the nodes it was promised are gone, and it waits in Ray's own queue without taking any.
            spot = place(placed.group, self.free(settled)) or ()
            settled.append(Placed(placed.group, spot, placed.since))
        return settled

    def free(self, running: Iterable[Placed]) -> list[Node]:
        """Each node less what stands on it."""
        left = {node.name: node for node in self.nodes}
        for placed in running:
            for name in set(placed.nodes):
                left[name] = left[name].without(placed.group, placed.nodes.count(name))
        return list(left.values())

    def spots(self, group: WorkerGroup, running: Sequence[Placed]) -> Iterator[tuple[str, ...]]:
        """Where `group` could stand beside `running`, best first."""
        if self.limits.allow((p.group for p in running), group):
            yield from places(group, self.free(running), self.largest(group))

    def largest(self, group: WorkerGroup) -> int:
        """Workers of `group` that the roomiest empty node holds."""
        return max(node.holds(group) for node in self.nodes)

    def stands(self, group: WorkerGroup, running: Sequence[Placed]) -> set[str]:
        """The nodes on which workers of `group` could stand beside `running`, or beside more than that."""
        if self.largest(group) >= group.workers:
            return {name for spot in self.spots(group, running) for name in spot}
        return {node.name for node in self.nodes}

    def fits(self, group: WorkerGroup, running: Sequence[Placed]) -> bool:
        """Whether there is such a place."""
        return next(self.spots(group, running), None) is not None


def _reserve(head: WorkerGroup, running: Sequence[Placed], board: _Board, now: float) -> float:
    """The earliest estimated time at which `head` fits."""
    ends = sorted({p.ends(now) for p in running})
    if not ends:
        return now
    # Room only grows as trials end, so the first time that is enough is found by halving.
    first = bisect_left(ends, True, key=lambda time: board.fits(head, [p for p in running if p.ends(now) > time]))
    return ends[min(first, len(ends) - 1)]
