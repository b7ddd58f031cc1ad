"""Exact nearest neighbours over shards of a pool: faiss in Ray Data actors, and a merge that does not see the shards.

Each block of vectors is indexed, searched and dropped by one actor, so that no machine holds the whole index. faiss's
float32 products differ in the last bits with the size of what it searches; so a shard gives more than is asked (all
that could be among the best), and the merge scores these again in float64, rounds to 1e-6 and breaks ties by row.

    found = search(vectors, [Search(queries, allowed)], k=10, shards=4, actors=2)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icu_ray.data.embedding import matrix_of, quiet_ray_data, vector_column

if TYPE_CHECKING:
    import pyarrow as pa

TOLERANCE = 1e-5
"""Far above the error of a float32 product of unit vectors (1e-7), far below what tells two texts apart."""
DECIMALS = 6
_MARGIN = 8


@dataclass(frozen=True)
class Search:
    """One forget sample's question.

    queries: (Q,) int64 rows of the vectors to find neighbours of.
    allowed: (N,) bool, which rows may be neighbours.
    rank: (N,) int64, among equally similar rows the lower rank comes first.
    """

    queries: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    rank: NDArray[np.int64]


@dataclass(frozen=True)
class Neighbour:
    """A row and its cosine similarity to the query, rounded to DECIMALS."""

    row: int
    similarity: float


def search(
    vectors: NDArray[np.float32], searches: Sequence[Search], k: int, *, shards: int, actors: int
) -> list[list[list[Neighbour]]]:
    """For each search and query the k nearest allowed rows, best first (fewer where fewer are allowed)."""
    import pyarrow as pa
    import ray

    bounds = np.linspace(0, len(vectors), min(shards, len(vectors)) + 1).astype(int)
    tables: list[Any] = []
    for start, stop in itertools.pairwise(bounds.tolist()):
        # One shard at a time goes through this process; Ray keeps or spills what actors have not taken yet.
        shard = np.ascontiguousarray(vectors[start:stop])
        tables.append(ray.put(pa.table({"row": np.arange(start, stop), "vector": vector_column(shard)})))
    asked = ray.put([(np.ascontiguousarray(vectors[each.queries]), each.allowed) for each in searches])
    found: list[list[set[int]]] = [[set() for _ in each.queries] for each in searches]
    with quiet_ray_data():
        results = ray.data.from_arrow_refs(tables).map_batches(
            ShardSearch,
            fn_constructor_args=([asked], k),  # inside a list a reference stays one: each actor gets it once
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(tables))),
            num_cpus=1,
        )
        for block in results.iter_batches(batch_size=None, batch_format="numpy"):
            for number, query, row in zip(block["search"], block["query"], block["row"], strict=True):
                found[number][query].add(int(row))
    return [
        [
            merge(vectors, int(query), sorted(candidates), each.rank, k)
            for query, candidates in zip(each.queries, found[number], strict=True)
        ]
        for number, each in enumerate(searches)
    ]


def merge(
    vectors: NDArray[np.float32], query: int, candidates: Sequence[int], rank: NDArray[np.int64], k: int
) -> list[Neighbour]:
    """The best k of the shards' candidates: by float64 similarity rounded to DECIMALS, ties by rank."""
    rows = np.asarray(candidates, dtype=np.int64)
    products = vectors[rows].astype(np.float64) * vectors[query].astype(np.float64)
    similarity = np.round(products.sum(axis=1), DECIMALS)
    best = np.lexsort((rank[rows], -similarity))[:k]
    return [Neighbour(int(rows[at]), float(similarity[at])) for at in best]


class ShardSearch:
    """An actor that indexes the shard it is given, asks all questions of it, and forgets it."""

    def __init__(self, asked: list[Any], k: int) -> None:
        import ray

        self.asked: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = ray.get(asked[0])
        self.k = k

    def __call__(self, shard: pa.Table) -> dict[str, NDArray[np.int64]]:
        rows = shard.column("row").to_numpy()
        vectors = np.ascontiguousarray(matrix_of(shard.column("vector")))
        answers = [
            (number, query, rows[place])
            for number, (queries, allowed) in enumerate(self.asked)
            for query, places in enumerate(candidates(vectors, queries, np.flatnonzero(allowed[rows]), self.k))
            for place in places
        ]
        columns = np.array(answers, dtype=np.int64).reshape(-1, 3).T
        return dict(zip(("search", "query", "row"), columns, strict=True))


def candidates(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], allowed: NDArray[np.int64], k: int
) -> list[NDArray[np.int64]]:
    """For each query the places in `vectors` of every allowed row that may be among the k most similar."""
    if not len(allowed):
        return [np.empty(0, dtype=np.int64) for _ in queries]
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    parameters: Any = faiss.SearchParameters(sel=faiss.IDSelectorBatch(allowed))  # type: ignore[call-arg]
    count = min(k + _MARGIN, len(allowed))
    while True:
        scores, places = index.search(queries, count, params=parameters)
        last_wanted = scores[:, min(k, count) - 1]
        if count == len(allowed) or (last_wanted - scores[:, -1] > TOLERANCE).all():
            break
        count = min(2 * count, len(allowed))  # a crowd of equals at the border: look further down
    keep = scores >= last_wanted[:, None] - TOLERANCE
    return [row[kept] for row, kept in zip(places, keep, strict=True)]
