"""The order of starts: a plain event simulation plays whole sweeps and watches every node at every moment.

Needs: nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.plan.schedule import (
    NO_LIMITS,
    Limits,
    Node,
    Placed,
    WorkerGroup,
    by_work,
    in_order,
    most_workers,
    next_start,
    place,
)


def play(
    groups: Sequence[WorkerGroup],
    nodes: Sequence[Node],
    true_minutes: Callable[[WorkerGroup], float] | None = None,
    limits: Limits = NO_LIMITS,
) -> dict[str, tuple[float, float, tuple[str, ...]]]:
    """Start, end and place of each trial when the schedule decides, checked against oversubscription throughout."""
    length = true_minutes or (lambda group: group.minutes)
    waiting = list(groups)
    running: list[Placed] = []
    now = 0.0
    ends: list[tuple[float, str]] = []
    told: dict[str, tuple[float, float, tuple[str, ...]]] = {}
    while waiting or running:
        while (placed := next_start(waiting, running, nodes, now, limits)) is not None:
            waiting.remove(placed.group)
            running.append(placed)
            end = now + length(placed.group)
            heapq.heappush(ends, (end, placed.group.trial))
            told[placed.group.trial] = (now, end, placed.nodes)
            check_room(running, nodes, limits)
        assert running, f"nothing runs and {len(waiting)} wait"
        now, over = heapq.heappop(ends)
        running = [p for p in running if p.group.trial != over]
    return told


def check_room(running: Sequence[Placed], nodes: Sequence[Node], limits: Limits) -> None:
    for node in nodes:
        cpus = sum(p.nodes.count(node.name) * p.group.cpus for p in running)
        gpus = sum(p.nodes.count(node.name) * p.group.gpus for p in running)
        assert cpus <= node.cpus + 1e-6
        assert gpus <= node.gpus + 1e-6
    for placed in running:
        assert len(placed.nodes) == placed.group.workers
    if limits.workers is not None:
        assert sum(p.group.workers for p in running) <= limits.workers
    if limits.trials is not None:
        assert len(running) <= limits.trials


def gpu(trial: str, workers: int, minutes: float) -> WorkerGroup:
    return WorkerGroup(trial, workers, minutes, cpus=1, gpus=1)


EIGHT = (Node("a", 64, 8),)


def test_starts_in_order_while_there_is_room() -> None:
    told = play([gpu("long", 6, 30), gpu("mid", 1, 20), gpu("short", 1, 10)], EIGHT)
    assert [told[name][0] for name in ("long", "mid", "short")] == [0, 0, 0]


def test_a_small_trial_overtakes_only_where_it_delays_nobody() -> None:
    running = [Placed(gpu("six", 6, 10), ("a",) * 6, 0.0)]
    head, short, long = gpu("head", 6, 10), gpu("short", 1, 10), gpu("long", 3, 20)
    assert next_start([head, short], running, EIGHT, 0.0) == Placed(short, ("a",), 0.0)
    # Three workers do not fit now; two would still stand at minute 10, when the head needs six of eight: allowed.
    assert next_start([head, long], running, EIGHT, 0.0) is None
    beside = gpu("beside", 2, 100)
    assert next_start([head, beside], running, EIGHT, 0.0) == Placed(beside, ("a", "a"), 0.0)
    # With one already beside for long, the second would leave five at minute 10.
    crowded = [*running, Placed(gpu("one", 1, 100), ("a",), 0.0)]
    assert next_start([gpu("seven", 7, 5), gpu("x", 1, 100)], crowded, EIGHT, 0.0) is None
    assert next_start([gpu("seven", 7, 5), gpu("x", 1, 10)], crowded, EIGHT, 0.0) is not None


def test_a_group_is_not_spread_over_nodes_when_one_could_hold_it() -> None:
    two = (Node("a", 64, 8), Node("b", 64, 8))
    running = [Placed(gpu("a6", 6, 10), ("a",) * 6, 0), Placed(gpu("b6", 6, 10), ("b",) * 6, 0)]
    assert next_start([gpu("three", 3, 10)], running, two, 0) is None
    assert next_start([gpu("one", 1, 10)], running, two, 0) is not None


def test_a_group_larger_than_any_node_is_spread() -> None:
    small = tuple(Node(name, 8, 4) for name in "abc")
    placed = next_start([gpu("six", 6, 10)], [], small, 0)
    assert placed is not None
    assert placed.nodes == ("a",) * 4 + ("b",) * 2


def test_best_fit_keeps_large_holes_whole() -> None:
    free = (Node("roomy", 64, 8), Node("tight", 64, 3), Node("full", 64, 0))
    assert place(gpu("three", 3, 1), free) == ("tight",) * 3
    assert place(gpu("five", 5, 1), free) == ("roomy",) * 5
    assert place(gpu("twelve", 12, 1), free) is None


def test_what_never_fits_is_passed_over_and_found_beforehand() -> None:
    assert most_workers(gpu("nine", 9, 1), EIGHT) == 8
    placed = next_start([gpu("nine", 9, 100), gpu("one", 1, 1)], [], EIGHT, 0)
    assert placed is not None
    assert placed.group.trial == "one"
    assert most_workers(gpu("six", 6, 1), EIGHT, Limits(workers=3)) == 3


def test_limits_hold_for_starts_and_reservations() -> None:
    limits = Limits(workers=6, trials=2)
    told = play([gpu(str(i), 1 + i % 3, 10 - i) for i in range(8)], EIGHT, limits=limits)
    assert len(told) == 8


def test_cpu_trials_and_gpu_trials_share_nodes() -> None:
    nodes = (Node("a", 4, 1),)
    groups = [gpu("g", 1, 10), WorkerGroup("c1", 3, 10), WorkerGroup("c2", 1, 10)]
    told = play(groups, nodes)
    assert told["g"][0] == told["c1"][0] == 0
    assert told["c2"][0] == 10


def test_fractions_of_a_cpu_add_up() -> None:
    assert Node("a", 0.3).holds(WorkerGroup("t", 3, 1, cpus=0.1)) == 3


@pytest.mark.parametrize("sharing", [2, 3, 6, 7])
def test_trials_that_share_gpus_fill_them(sharing: int) -> None:
    """As many as the shares of each GPU, whatever runs already."""
    nodes = (Node("a", 64, 2), Node("b", 64, 1))
    groups = [WorkerGroup(str(n), 1, 10, gpus=1 / sharing) for n in range(4 * sharing)]
    told = play(groups, nodes)
    assert [told[group.trial][0] for group in groups] == [0.0] * 3 * sharing + [10.0] * sharing


def test_a_running_trial_of_unknown_place_still_counts() -> None:
    running = [Placed(gpu("new", 6, 10), (), 0.0)]
    assert next_start([gpu("three", 3, 1)], running, EIGHT, 0.0) is None
    gone = [Placed(gpu("new", 6, 10), ("vanished",) * 6, 0.0)]
    assert next_start([gpu("three", 3, 1)], gone, EIGHT, 0.0) is None


def test_a_wrong_estimate_lets_nobody_past_the_head_for_ever() -> None:
    """One worker outlives its estimate by far; small trials go past the head until its time came, then no more."""
    groups = [gpu("liar", 1, 10), gpu("head", 8, 10)] + [gpu(f"small{i}", 1, 3) for i in range(60)]
    told = play(groups, EIGHT, lambda group: 500 if group.trial == "liar" else group.minutes)
    assert told["head"][0] == 500
    past = [name for name, (start, _, _) in told.items() if name.startswith("small") and start < 500]
    assert all(told[name][1] <= 10 for name in past)


def test_nobody_takes_a_node_where_the_head_could_be_next() -> None:
    """Two trials have outlived their estimates: whichever ends first, the head stands in its place."""
    nodes = (Node("a", 64, 2), Node("b", 64, 2), Node("c", 64, 1))
    late = [Placed(gpu("late-a", 1, 1), ("a",), 0), Placed(gpu("late-b", 1, 1), ("b",), 0)]
    head, small = gpu("head", 2, 10), gpu("small", 1, 10)
    assert next_start([head, small], late, nodes, 2) == Placed(small, ("c",), 2)
    assert next_start([head, small], late, nodes[:2], 2) is None
    # Limits count both late ones beside the head: nobody knows how many will have ended by then.
    assert next_start([head, small], late, nodes, 2, Limits(trials=3)) is None


sizes = st.sampled_from([1, 1, 2, 3, 6])
minutes = st.floats(0.1, 60)


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[list[WorkerGroup], list[Node], list[float], Limits]:
    nodes = [Node(f"n{i}", 64, draw(st.sampled_from([2, 4, 8]))) for i in range(draw(st.integers(1, 4)))]
    total = int(sum(node.gpus for node in nodes))
    count = draw(st.integers(1, 14))
    groups = [gpu(f"t{i}", min(draw(sizes), total), draw(minutes)) for i in range(count)]
    limit = draw(st.sampled_from([None, max(g.workers for g in groups)]))
    trials = draw(st.sampled_from([None, 2]))
    return groups, nodes, [draw(st.floats(0.1, 3)) for _ in groups], Limits(limit, trials)


@settings(max_examples=150, deadline=None)
@given(sweeps())
def test_every_trial_starts_and_no_node_is_oversubscribed(
    sweep: tuple[list[WorkerGroup], list[Node], list[float], Limits],
) -> None:
    groups, nodes, factors, limits = sweep
    wrong = {group.trial: group.minutes * factor for group, factor in zip(groups, factors, strict=True)}
    told = play(groups, nodes, lambda group: wrong[group.trial], limits)
    assert set(told) == {group.trial for group in groups}


@settings(max_examples=100, deadline=None)
@given(sweeps())
def test_with_true_estimates_nobody_delays_the_head_of_the_line(
    sweep: tuple[list[WorkerGroup], list[Node], list[float], Limits],
) -> None:
    """Whoever heads the line starts no later than if nothing had been let past it from then on."""
    groups, nodes, _, limits = sweep
    told = play(groups, nodes, limits=limits)
    for number, group in enumerate(groups):
        # It heads the line from the moment when all before it have started.
        heads_from = max((told[g.trial][0] for g in groups[:number]), default=0.0)
        if told[group.trial][0] <= heads_from:
            continue
        running = [
            Placed(g, told[g.trial][2], told[g.trial][0])
            for g in groups
            if told[g.trial][0] <= heads_from < told[g.trial][1] and g is not group
        ]
        moments = sorted({told[p.group.trial][1] for p in running})
        alone = next(
            time
            for time in moments
            if next_start([group], [p for p in running if told[p.group.trial][1] > time], nodes, time, limits)
        )
        assert told[group.trial][0] <= alone + 1e-6


@settings(max_examples=150, deadline=None)
@given(sweeps())
def test_wrong_estimates_delay_the_head_by_no_more_than_they_overrun(
    sweep: tuple[list[WorkerGroup], list[Node], list[float], Limits],
) -> None:
    """Whoever heads the line starts by its first reservation, or once all have ended that should have by then."""
    groups, nodes, factors, limits = sweep
    true = {group.trial: group.minutes * factor for group, factor in zip(groups, factors, strict=True)}
    told = play(groups, nodes, lambda group: true[group.trial], limits)
    for number, group in enumerate(groups):
        heads_from = max((told[g.trial][0] for g in groups[:number]), default=0.0)
        if told[group.trial][0] <= heads_from:
            continue
        others = [(g, *told[g.trial]) for g in groups if g is not group]
        estimated = {g.trial: max(start + g.minutes, heads_from) for g, start, _, _ in others}
        running = [(g, where) for g, start, end, where in others if start <= heads_from < end]

        def fits_after(
            moment: float, group: WorkerGroup = group, running: list = running, estimated: dict = estimated
        ) -> bool:
            left = [Placed(g, where, told[g.trial][0]) for g, where in running if estimated[g.trial] > moment]
            return next_start([group], left, nodes, moment, limits) is not None

        reserved = min(filter(fits_after, (estimated[g.trial] for g, _ in running)))
        due = [end for g, start, end, _ in others if start <= reserved and estimated[g.trial] <= reserved + 1e-6]
        assert told[group.trial][0] <= max([reserved, *due]) + 1e-6


def test_a_long_trial_is_let_past_the_head_on_another_node() -> None:
    """The tightest node is the one that the head waits for; a roomier one takes the long trial beside it."""
    two = (Node("a", 64, 8), Node("b", 64, 8))
    running = [Placed(gpu("a7", 7, 10), ("a",) * 7, 0), Placed(gpu("b4", 4, 50), ("b",) * 4, 0)]
    placed = next_start([gpu("head", 8, 10), gpu("long", 1, 100)], running, two, 0)
    assert placed == Placed(gpu("long", 1, 100), ("b",), 0)


def test_most_work_stands_first() -> None:
    line = sorted(
        [gpu("one", 1, 30), gpu("six", 6, 6), gpu("three", 3, 20), WorkerGroup("cpu", 4, 7, cpus=2)], key=by_work
    )
    assert [group.trial for group in line] == ["three", "cpu", "six", "one"]


def test_the_longest_stands_first_once_it_outlasts_the_rest() -> None:
    wide, long = gpu("wide", 6, 10), gpu("long", 1, 30)
    runs = [Placed(gpu("runs", 8, 40), ("a",), 0.0)]
    # 410 GPU minutes are left, of eight GPUs: 51 minutes. After half of them: 31, and in the end 11.
    for now, first in ((0.0, wide), (20.0, wide), (22.0, long), (40.0, long)):
        assert in_order([wide, long], runs, EIGHT, now)[0] == first, now
    # Limits count as nodes do; where there is no node yet, the work decides.
    assert in_order([wide, long], [], EIGHT, 0.0)[0] == long
    assert in_order([wide, long], [], EIGHT, 0.0, Limits(workers=2))[0] == wide
    assert in_order([wide, long], [], EIGHT, 0.0, Limits(trials=1))[0] == wide
    assert in_order([wide, long], [], (), 0.0)[0] == wide
    # CPUs of trials without GPUs are no part of what holds back those with them.
    cpus = [WorkerGroup(f"cpu{number}", 1, 1.0, cpus=1.0) for number in range(200)]
    assert in_order([wide, long, *cpus], [], EIGHT, 0.0)[0] == long
    assert in_order([], [], EIGHT, 0.0) == []


@given(sweeps(), st.floats(0, 100))
def test_an_order_loses_nobody(sweep: tuple[list[WorkerGroup], list[Node], list[float], Limits], now: float) -> None:
    groups, nodes, _, limits = sweep
    ordered = in_order(groups, [], nodes, now, limits)
    assert sorted(group.trial for group in ordered) == sorted(group.trial for group in groups)


def test_a_stream_of_small_trials_does_not_keep_a_large_one_waiting() -> None:
    """Small trials that would fit at once keep coming; without a reservation six GPUs are never free together."""
    waiting = [gpu("large", 6, 30)]
    running = [Placed(gpu(f"old{number}", 1, 10 + number), ("a",), 0.0) for number in range(8)]
    now, number = 0.0, 0
    while waiting[0].trial == "large":
        waiting.append(gpu(f"new{number}", 1, 4 + number % 7))
        while (placed := next_start(waiting, running, EIGHT, now)) is not None:
            waiting.remove(placed.group)
            running.append(placed)
        now, number = now + 1.0, number + 1
        assert number < 100
        running = [p for p in running if p.ends(0.0) > now]
    large = next(p for p in running if p.group.trial == "large")
    assert large.since == 15.0  # the sixth of the old ones ends
    assert number > 10


@pytest.mark.parametrize("gpus", [8, 16, 64])
def test_large_trials_do_not_starve_behind_many_small_ones(gpus: int) -> None:
    """Small trials stand first in the line; each six-worker trial still starts within a small trial's time."""
    nodes = [Node(f"n{i}", 64, 8) for i in range(gpus // 8)]
    small = [gpu(f"s{i}", 1, 10) for i in range(3 * gpus)]
    told = play([*small[: 2 * gpus], gpu("large", 6, 30), *small[2 * gpus :]], nodes)
    assert told["large"][0] <= 20
