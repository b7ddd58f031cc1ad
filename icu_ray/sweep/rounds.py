"""A round of work beside the trials, and how much of the cluster it may take.

resources = claims.spare(ray.available_resources(), ray.cluster_resources())
round = Round(function, *arguments)     # a generator of what it tells, in a Ray task of this node
for update in round: ...
round.end()                             # from another thread: it ends within seconds, whatever it is doing
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any


class Claims:
    """What started trials hold of the cluster or wait for. Not for several threads at one time."""

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, float]] = {}
        self._waiting: dict[str, float] = {}

    @property
    def any_waits(self) -> bool:
        """Whether a started trial has no place yet."""
        return bool(self._waiting)

    def longest_wait(self) -> float:
        """Seconds that a started trial has had no place, the longest of them; 0 where all have one."""
        return max((time.monotonic() - since for since in self._waiting.values()), default=0.0)

    def waits(self, trial_id: str, cpus: float, gpus: float) -> None:
        self._claims[trial_id] = {"CPU": cpus, "GPU": gpus}
        self._waiting[trial_id] = time.monotonic()

    def placed(self, trial_id: str) -> None:
        self._waiting.pop(trial_id, None)

    def ended(self, trial_id: str) -> None:
        self._claims.pop(trial_id, None)
        self._waiting.pop(trial_id, None)

    def clear(self) -> None:
        self._claims.clear()
        self._waiting.clear()

    def spare(self, free: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float] | None:
        """What a round may take of what is free; None where that is too little to begin.

        A trial whose workers are being started anew holds nothing for a moment, and is to find its place free.
        """
        spare = dict(free)
        for kind in ("CPU", "GPU"):
            # Trials with a share of a GPU may each stand on another one; the evaluation takes whole ones.
            claimed = sum(math.ceil(claim[kind]) for claim in self._claims.values())
            spare[kind] = min(spare.get(kind, 0.0), whole.get(kind, 0.0) - claimed)
        kind = "GPU" if "GPU" in whole else "CPU"
        return spare if spare[kind] >= 1 and spare["CPU"] >= 1 else None


class Round:
    """A streaming Ray task on this node: it, and with it its actors, can be ended at any time from outside.

    Iterating over it raises what the task raised; WorkerCrashedError or TaskCancelledError where its process ended.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        task = ray.remote(num_cpus=0, num_returns="streaming", max_retries=0, scheduling_strategy=here)(function)
        self.asked_to_end = False
        self._task: Any = task.remote(*arguments)

    def __iter__(self) -> Iterator[Any]:
        import ray

        for reference in self._task:
            yield ray.get(reference)

    def end(self) -> None:
        import ray

        self.asked_to_end = True
        ray.cancel(self._task, force=True)

    def release(self) -> None:
        """No thread may hold the task when Ray is shut down: letting go of it then ends the process."""
        self._task = None
