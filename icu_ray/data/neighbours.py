"""Nearest neighbours over shards of a pool: faiss in Ray Data actors, and a merge that does not see the shards.

An actor reads a shard from the file that all actors of its node map into memory (`opened`), searches it and drops it:
none holds more than a shard, and Ray's object store holds none at all. faiss's float32 products differ in the last bits
with the size of what it searches; so a shard gives more than is asked (all that could be among the best), and the merge
scores these again in float64, rounds to 1e-6 and breaks ties by row.

Without `cells` the search is exact. With them (`make_cells`) it is faiss's inverted file: every row belongs to the cell
whose centre is nearest to it, and a query looks only into its PROBED nearest cells. The centres are made once, of rows
spread evenly over the whole pool, and all shards share them; so shards and actors do not change the answer here either,
except for a row that is equally near to two centres within float32. What does change it is the pool: a row more or
less moves the centres. So may another processor, whose products differ in the last bits.

    found = search(vectors, [Search(queries, allowed)], k=10, shards=4, actors=2)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from icu_ray.console.progress import told
from icu_ray.data.embedding import quiet_ray_data

TOLERANCE = 1e-5
"""Far above the error of a float32 product of unit vectors (1e-7), far below what tells two texts apart."""
DECIMALS = 6
_MARGIN = 8
PROBED = 32
"""Cells an approximate search looks into for each query; twice as many cost as much as an exact search."""
ROWS_PER_CENTRE = 64
"""Rows that k-means sees for each centre."""


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
    vectors: NDArray[np.float32],
    searches: Sequence[Search],
    k: int,
    *,
    shards: int,
    actors: int,
    cells: NDArray[np.float32] | None = None,
    opened: Callable[[], NDArray[np.float32]] | None = None,
) -> list[list[list[Neighbour]]]:
    """For each search and query the k nearest allowed rows, best first (fewer where fewer are allowed).

    cells: (C, D) centres of an approximate search. A query whose probed cells hold fewer than k allowed rows is
    answered by an exact search. opened: gives the same vectors on any node, as a file mapped into memory; None: they
    go to Ray's object store, once and whole.
    """
    found = _search_shards(vectors, searches, k, shards, actors, cells, opened)
    if cells is not None:
        lacking = [
            np.array([len(rows) < min(k, int(each.allowed.sum())) for rows in found[number]], dtype=bool)
            for number, each in enumerate(searches)
        ]
        if any(some.any() for some in lacking):
            again = [replace(each, queries=each.queries[some]) for each, some in zip(searches, lacking, strict=True)]
            exact = _search_shards(vectors, again, k, shards, actors, None, opened)
            for rows, some, better in zip(found, lacking, exact, strict=True):
                for place, candidates in zip(np.flatnonzero(some), better, strict=True):
                    rows[place] = candidates
    return [
        [
            merge(vectors, int(query), sorted(candidates), each.rank, k)
            for query, candidates in zip(each.queries, found[number], strict=True)
        ]
        for number, each in enumerate(searches)
    ]


def make_cells(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, D) unit centres of cells, about sqrt(N) of them, by a Ray task: k-means on rows spread over the pool."""
    import ray

    count = max(1, min(math.isqrt(len(vectors)), len(vectors) // ROWS_PER_CENTRE))
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), count * ROWS_PER_CENTRE)).astype(np.int64))
    task = ray.remote(num_cpus=1)(centres_of)
    centres: NDArray[np.float32] = ray.get(task.remote(np.ascontiguousarray(vectors[rows]), count))
    return centres


def centres_of(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """(count, D) unit vectors: spherical k-means with a fixed seed."""
    import faiss

    _use_matrix_products()
    # The rows are few enough already; faiss would draw again above its own limit and warn below it.
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=10, seed=0, spherical=True, min_points_per_centroid=1,
        max_points_per_centroid=2 * ROWS_PER_CENTRE,
    )  # fmt: skip
    means.train(vectors)
    centres: NDArray[np.float32] = np.asarray(means.centroids)
    return centres


def _search_shards(
    vectors: NDArray[np.float32],
    searches: Sequence[Search],
    k: int,
    shards: int,
    actors: int,
    cells: NDArray[np.float32] | None,
    opened: Callable[[], NDArray[np.float32]] | None,
) -> list[list[set[int]]]:
    """For each search and query all rows that may be among the k nearest."""
    import ray

    bounds = np.linspace(0, len(vectors), min(shards, len(vectors)) + 1).astype(int)
    parts = [{"start": start, "stop": stop} for start, stop in itertools.pairwise(bounds.tolist())]
    asked = ray.put(([(np.ascontiguousarray(vectors[each.queries]), each.allowed) for each in searches], cells))
    whole = None if opened is not None else ray.put(np.ascontiguousarray(vectors))
    found: list[list[set[int]]] = [[set() for _ in each.queries] for each in searches]
    with quiet_ray_data():
        results = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            ShardSearch,
            fn_constructor_args=([asked, whole], k, opened),  # inside a list a reference stays one
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(parts))),
            num_cpus=1,
        )
        told("searching")
        for done, block in enumerate(results.iter_batches(batch_size=None, batch_format="numpy"), 1):
            told("searching", min(1.0, done / len(parts)))
            for number, query, row in zip(block["search"], block["query"], block["row"], strict=True):
                found[number][query].add(int(row))
    return found


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
    """An actor that searches the shards it is told of for the neighbours of all queries, one after the other.

    shared: references to the questions with the centres, and to all vectors; in place of these `opened` gives them.
    """

    def __init__(self, shared: list[Any], k: int, opened: Callable[[], NDArray[np.float32]] | None = None) -> None:
        import ray

        self.asked: list[tuple[NDArray[np.float32], NDArray[np.bool_]]]
        self.cells: NDArray[np.float32] | None
        self.asked, self.cells = ray.get(shared[0])
        self.vectors: NDArray[np.float32] = ray.get(shared[1]) if opened is None else opened()
        self.k = k

    def __call__(self, shards: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        answers: list[tuple[int, int, int]] = []
        for start, stop in zip(shards["start"].tolist(), shards["stop"].tolist(), strict=True):
            vectors = np.array(self.vectors[start:stop])  # a copy in memory, which goes with the shard
            find = exact_shard(vectors) if self.cells is None else approximate_shard(vectors, self.cells)
            answers += [
                (number, query, start + int(place))
                for number, (queries, allowed) in enumerate(self.asked)
                for query, places in enumerate(candidates(find, queries, np.flatnonzero(allowed[start:stop]), self.k))
                for place in places
            ]
        columns = np.array(answers, dtype=np.int64).reshape(-1, 3).T
        return dict(zip(("search", "query", "row"), columns, strict=True))


Find: TypeAlias = (
    "Callable[[NDArray[np.float32], NDArray[np.int64], int], tuple[NDArray[np.float32], NDArray[np.int64]]]"
)
"""(queries, allowed places, count) -> (Q, count) scores, best first, and places; place -1 where there are no more."""


def candidates(find: Find, queries: NDArray[np.float32], allowed: NDArray[np.int64], k: int) -> list[NDArray[np.int64]]:
    """For each query the places of every allowed row that may be among the k most similar that `find` can see."""
    if not len(allowed) or not len(queries):
        return [np.empty(0, dtype=np.int64) for _ in queries]
    count = min(k + _MARGIN, len(allowed))
    while True:
        scores, places = find(queries, allowed, count)
        last_wanted = scores[:, min(k, count) - 1]
        whole = (places[:, -1] < 0) | (last_wanted - scores[:, -1] > TOLERANCE)
        if count == len(allowed) or whole.all():
            break
        count = min(2 * count, len(allowed))  # a crowd of equals at the border: look further down
    keep = (scores >= last_wanted[:, None] - TOLERANCE) & (places >= 0)
    return [row[kept] for row, kept in zip(places, keep, strict=True)]


def exact_shard(vectors: NDArray[np.float32]) -> Find:
    """Looks at every allowed row."""
    import faiss

    _use_matrix_products()

    def find(
        queries: NDArray[np.float32], allowed: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        # A copy of the allowed rows is far cheaper than faiss's selectors, which leave no matrix product.
        pool = vectors if len(allowed) == len(vectors) else vectors[allowed]
        scores, places = faiss.knn(queries, pool, count, metric=faiss.METRIC_INNER_PRODUCT)
        return scores, allowed[places]

    return find


def approximate_shard(vectors: NDArray[np.float32], cells: NDArray[np.float32]) -> Find:
    """Looks at the allowed rows of each query's PROBED nearest cells."""
    import faiss

    _use_matrix_products()
    centres = faiss.IndexFlatIP(vectors.shape[1])
    centres.add(cells)
    index = faiss.IndexIVFFlat(centres, vectors.shape[1], len(cells), faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)

    def find(
        queries: NDArray[np.float32], allowed: NDArray[np.int64], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        selector = faiss.IDSelectorBatch(allowed)
        parameters: Any = faiss.SearchParametersIVF(sel=selector, nprobe=min(PROBED, len(cells)))  # type: ignore[call-arg]
        scores, places = index.search(queries, count, params=parameters)
        return scores, places

    return find


def _use_matrix_products() -> None:
    """faiss takes them from this many queries on; 1.15's default is 128,000, below which it is 20 times slower."""
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 20
