"""Items through a pool of Ray Data actors, one at a time: what asks models from outside does it so.

    for row in asked_of_actors(items, Evaluator, Pool(2), retries=5): ...     # as they come

An item is {"item": its number, "payload": bytes}. What an actor cannot do comes back as a row that says so, or, where
the actor itself dies too often, not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icu_ray.data.embedding import quiet_ray_data


@dataclass(frozen=True)
class Pool:
    """actors: at most so many. cpus, gpus: of each, and its threads."""

    actors: int
    cpus: float = 1
    gpus: float = 0


def asked_of_actors(
    items: Sequence[Mapping[str, Any]], actor: type[Any], pool: Pool, *, retries: int
) -> Iterator[dict[str, Any]]:
    """The rows that the actors make of the items, in any order. actor: made with its number of threads, called with a
    pyarrow table of one item. retries: times an item is asked again after the death of its actor."""
    import ray

    actors = max(1, min(pool.actors, len(items)))
    with quiet_ray_data():
        # An item that is given up takes none of the others with it; it is missed at the end.
        ray.data.DataContext.get_current().max_errored_blocks = -1
        answered = ray.data.from_items(list(items), override_num_blocks=len(items)).map_batches(
            actor,
            fn_constructor_args=(max(1, int(pool.cpus)),),
            batch_size=1,
            batch_format="pyarrow",
            # One at a time: an item that waited in an actor would die with the one in hand, and use up its retries.
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            # Ray would ask without end an item that kills whoever reads it, such as one that fills the memory.
            max_task_retries=retries,
        )
        for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from block.to_pylist()
