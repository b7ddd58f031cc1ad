"""Pairing: exact neighbours whatever the shards and actors, on a real Ray and the real bundled encoder.

Needs: one Ray; ../shared for some of its tests.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from icu_ray.config import Columns, ExtractionData, PairsConfig, SyntheticData
from icu_ray.data.corpus import Corpus
from icu_ray.data.embedding import embed_texts, encoder_fingerprint, is_refusal
from icu_ray.data.examples import Examples
from icu_ray.data.extraction import open_extraction
from icu_ray.data.neighbours import (
    DECIMALS,
    PROBED,
    approximate_shard,
    candidates,
    centres_of,
    exact_shard,
    make_cells,
    merge,
    search,
)
from icu_ray.data.neighbours import Search as Question
from icu_ray.data.pairing import Pairs, embedded_texts, find_pairs, ngram_overlap
from icu_ray.data.synthetic import load_synthetic
from icu_ray.errors import UserError
from icu_ray.storage.store import Store

COLUMNS = Columns(48, 24, 36)
BUNDLED = PairsConfig(encoder="bundled", batch_size=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_synthetic(SyntheticData(source="synthetic", records=48, sample_size=8, heldout=4), (0, 1), 48)


def _unit(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def _brute_force(vectors: Any, query: int, allowed: Any, rank: Any, k: int) -> list[int]:
    scored = []
    for row in range(len(vectors)):
        if allowed[row]:
            similarity = sum(float(a) * float(b) for a, b in zip(vectors[row], vectors[query], strict=True))
            scored.append((-round(similarity, DECIMALS), int(rank[row]), row))
    return [row for _, _, row in sorted(scored)[:k]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 60), k=st.integers(1, 6), shards=st.integers(1, 5))
def test_shards_and_merge_equal_brute_force_with_ties(seed: int, rows: int, k: int, shards: int) -> None:
    random = np.random.default_rng(seed)
    vectors = _unit(random.integers(-1, 2, size=(rows, 3)) + np.array([0, 0, 0.5]))  # few directions, many equals
    allowed = random.random(rows) < 0.8
    rank = random.permutation(rows)
    query = int(random.integers(rows))
    found: set[int] = set()
    for start, stop in itertools.pairwise(np.linspace(0, rows, min(shards, rows) + 1).astype(int)):
        inside = np.flatnonzero(allowed[start:stop])
        found |= {
            start + int(at) for at in candidates(exact_shard(vectors[start:stop]), vectors[[query]], inside, k)[0]
        }
    assert len(found) >= min(k, int(allowed.sum()))
    merged = [each.row for each in merge(vectors, query, sorted(found), rank, k)]
    assert merged == _brute_force(vectors, query, allowed, rank, k)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 6), shards=st.integers(1, 5))
def test_an_approximate_search_is_exact_in_the_nearest_cells_whatever_the_shards(
    seed: int, k: int, shards: int
) -> None:
    random = np.random.default_rng(seed)
    vectors, cells = _unit(random.normal(size=(400, 8))), _unit(random.normal(size=(3 * PROBED, 8)))
    vectors[100:150] = vectors[7]
    allowed, rank, query = random.random(400) < 0.7, random.permutation(400), int(random.integers(400))
    cell_of = np.argmax(vectors @ cells.T, axis=1)
    probed = np.argsort(-(cells @ vectors[query]), kind="stable")[:PROBED]
    seen = allowed & np.isin(cell_of, probed)
    found: set[int] = set()
    for start, stop in itertools.pairwise(np.linspace(0, 400, shards + 1).astype(int)):
        find, inside = approximate_shard(vectors[start:stop], cells), np.flatnonzero(allowed[start:stop])
        found |= {start + int(at) for at in candidates(find, vectors[[query]], inside, k)[0]}
    merged = [each.row for each in merge(vectors, query, sorted(found), rank, k)]
    assert merged == _brute_force(vectors, query, seen, rank, k)


def test_centres_are_unit_vectors_in_the_middle_of_their_rows() -> None:
    random = np.random.default_rng(0)
    directions = _unit(random.normal(size=(5, 16)))
    vectors = _unit(directions.repeat(50, axis=0) + 0.05 * random.normal(size=(250, 16)))
    centres = centres_of(vectors, 5)
    assert np.allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    cell_of = np.argmax(vectors @ centres.T, axis=1)
    for cell in range(5):
        assert _unit(vectors[cell_of == cell].mean(axis=0, keepdims=True))[0] @ centres[cell] > 0.999
    assert np.array_equal(centres, centres_of(vectors, 5))


def test_a_crowd_of_equals_larger_than_the_margin_is_seen_whole() -> None:
    vectors = _unit(np.array([[1.0, 0.0]] * 70 + [[0.0, 1.0]] * 5))
    rank = np.arange(75)[::-1].copy()
    found = candidates(exact_shard(vectors), vectors[[0]], np.arange(1, 75), 1)[0]
    assert set(found) == set(range(1, 70))
    assert merge(vectors, 0, sorted(found), rank, 1)[0].row == 69


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.lists(st.integers(0, 2), max_size=30))
def test_overlap_is_the_share_of_the_target_s_ngrams(target: list[int], other: list[int]) -> None:
    n = min(10, len(target))
    shared = sum(
        any(other[j : j + n] == target[i : i + n] for j in range(len(other) - n + 1))
        for i in range(len(target) - n + 1)
    )
    assert ngram_overlap(target, other) == pytest.approx(shared / (len(target) - n + 1))
    assert ngram_overlap(target, target) == 1.0


def test_what_is_embedded(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "model": {
                    "type": "WordLevel",
                    "vocab": {c: i for i, c in enumerate("abcdef")},
                    "unk_token": "a",
                },
            }
        )
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = np.array([[0, 1, 2, 3], [4, 1, 2, 3], [0, 1, 3, 3]])
    examples = Examples(("x", "y", "z"), ("a b c d", "e b c d", "a b d d"), rows, str(tmp_path))
    texts = embedded_texts(examples, Columns(4, 2, 3), own_columns=False)
    assert texts.distinct == ("c d", "d d")
    assert texts.of_row.tolist() == [0, 0, 1]
    assert [list(unit) for unit in texts.units] == [[2, 3], [2, 3], [3, 3]]
    own = embedded_texts(examples, Columns(4, 2, 3), own_columns=True)
    assert own.distinct == examples.texts
    assert list(own.units[1]) == [4, 1, 2, 3]
    words = embedded_texts(Examples(("x",), ("two words",)), Columns(4, 2, 3), own_columns=True)
    assert words.units == (["two", "words"],)


def _same(a: Pairs, b: Pairs) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Pairs))


def test_the_search_on_ray_does_not_see_shards_or_actors(ray_cluster: None, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors = _unit(random.normal(size=(90, 8)))
    vectors[40:60] = vectors[7]
    questions = [
        Question(np.array([7, 3, 80]), random.random(90) < 0.7, random.permutation(90)),
        Question(np.array([50]), np.ones(90, dtype=bool), np.arange(90)),
    ]
    expected = [[_brute_force(vectors, int(q), each.allowed, each.rank, 5) for q in each.queries] for each in questions]
    np.save(tmp_path / "vectors.npy", vectors)
    opened = partial(np.load, tmp_path / "vectors.npy", mmap_mode="r")
    for shards, actors, source in ((1, 1, None), (3, 2, opened)):
        found = search(vectors, questions, 5, shards=shards, actors=actors, opened=source)
        assert [[[n.row for n in one] for one in each] for each in found] == expected


def test_the_approximate_search_on_ray_finds_nearly_all_and_never_nothing(ray_cluster: None) -> None:
    random = np.random.default_rng(1)
    groups = _unit(random.normal(size=(60, 12)))
    vectors = _unit(groups[random.integers(60, size=6000)] + 0.2 * random.normal(size=(6000, 12)))
    cells = make_cells(vectors)
    assert cells.shape == (77, 12)
    question = Question(np.arange(0, 6000, 60), random.random(6000) < 0.9, random.permutation(6000))
    found = [search(vectors, [question], 3, shards=n, actors=1, cells=cells)[0] for n in (1, 3)]
    assert found[0] == found[1]
    exact = search(vectors, [question], 3, shards=2, actors=1)[0]
    same = [a[0] == b[0] for a, b in zip(found[0], exact, strict=True)]
    assert 0.9 <= np.mean(same) <= 1
    # Only one row is allowed, in a cell that most queries do not look into: the search goes on to all cells.
    lonely = Question(question.queries, np.arange(6000) == 17, np.arange(6000))
    rows = [[each.row for each in one] for one in search(vectors, [lonely], 3, shards=2, actors=1, cells=cells)[0]]
    assert rows == [[17]] * 100


def test_pairs_are_nearest_pool_rows_and_cached(
    ray_cluster: None, corpus: Corpus, store: Store, tmp_path: Path
) -> None:
    pairs = find_pairs(corpus, [0, 1], BUNDLED, COLUMNS, own_columns=True, store=store)
    texts = embedded_texts(corpus.rows, COLUMNS, own_columns=True)
    vectors = np.asarray(embed_texts(texts.distinct, "bundled", store, actors=1, batch_size=16))
    assert vectors.shape == (48, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    from sentence_transformers import SentenceTransformer

    from icu_ray.data.encoder import bundled_encoder

    model = SentenceTransformer(str(bundled_encoder()), device="cpu")
    alone = np.stack([model.encode(text) for text in texts.distinct[:6]])
    assert np.allclose(vectors[:6], alone, atol=1e-5)
    similarity = np.round(vectors.astype(np.float64) @ vectors.astype(np.float64).T, DECIMALS)
    for sample in (0, 1):
        targets, pool = corpus.targets[sample], corpus.pools[sample]
        nearest = pool[np.argmax(similarity[np.ix_(targets, pool)], axis=1)]
        assert np.array_equal(pairs[sample].pair_rows, nearest)
        assert pairs[sample].pair_ids == tuple(corpus.rows.ids[row] for row in nearest)
        assert pairs[sample].target_ids == corpus.sample(sample)[0].ids
        found = pairs[sample].similarity
        assert found is not None and np.allclose(found, similarity[targets, nearest], atol=2e-6)
        assert not set(pairs[sample].pair_ids) & set(pairs[sample].target_ids)
        overlaps = [
            ngram_overlap(corpus.rows.texts[t].split(), corpus.rows.texts[p].split())
            for t, p in zip(targets, nearest, strict=True)
        ]
        assert np.array_equal(pairs[sample].ngram_overlap, overlaps)
    # Nothing is taken from an exact search for an approximate one, which in a pool this small finds the same.
    near = find_pairs(
        corpus, [1], BUNDLED.model_copy(update={"index": "approximate"}), COLUMNS, own_columns=True, store=store
    )
    assert _same(near[1], pairs[1])
    assert len(list((store.folder / "pairs").glob("*/pairs.json"))) == 3
    # From the store alone: without embeddings, and with rows numbered otherwise (only sample 1 loaded).
    shutil.rmtree(store.folder / "embeddings")
    again = find_pairs(corpus, [0, 1], BUNDLED, COLUMNS, own_columns=True, store=store)
    assert _same(again[0], pairs[0])
    assert _same(again[1], pairs[1])
    assert not (store.folder / "embeddings").exists()
    # Elsewhere, with other shards, actors and batches.
    other = BUNDLED.model_copy(update={"shards": 5, "actors": 2, "batch_size": 7})
    fresh = find_pairs(corpus, [0, 1], other, COLUMNS, own_columns=True, store=Store(str(tmp_path)))
    assert fresh[0].pair_ids == pairs[0].pair_ids
    assert fresh[1].pair_ids == pairs[1].pair_ids
    assert fresh[0].similarity is not None and pairs[0].similarity is not None
    assert np.allclose(fresh[0].similarity, pairs[0].similarity, atol=2e-6)


def test_the_overlap_cut_off_takes_the_next_candidate(ray_cluster: None, store: Store) -> None:
    words = [f"{a} {b}" for a in ("red", "blue", "green") for b in ("apple", "house", "river", "stone")]
    long = [
        f"{word} is what the report of {n} says about the matter at hand in the town" for n, word in enumerate(words)
    ]
    texts = [*long, long[0], long[0].replace("hand", "foot")]
    rows = Examples(tuple(map(str, range(len(texts)))), tuple(texts))
    base = load_synthetic(SyntheticData(source="synthetic", records=8, sample_size=1, heldout=1), (0,), 8)
    corpus = dataclasses.replace(base, rows=rows, targets={0: np.array([0])}, pools={0: np.arange(1, len(texts))})

    def pair(cut: float | None, candidates: int = 10) -> Pairs:
        chosen = BUNDLED.model_copy(update={"max_ngram_overlap": cut, "candidates": candidates})
        return find_pairs(corpus, [0], chosen, COLUMNS, own_columns=True, store=store)[0]

    assert pair(None).pair_ids == ("12",)
    assert pair(None).ngram_overlap.tolist() == [1.0]
    assert pair(0.9).pair_ids == ("13",)
    assert 0 < pair(0.9).ngram_overlap[0] < 0.9
    assert pair(0.0).pair_ids[0] not in ("12", "13")
    assert pair(0.0).ngram_overlap.tolist() == [0.0]
    with pytest.raises(UserError, match=r"pairs\.max_ngram_overlap: in sample 0 no neighbour of 1 targets .0. shares"):
        pair(0.0, candidates=2)
    settings = {"max_ngram_overlap": 0.0, "candidates": 2, "overlap_fallback": "least"}
    least = find_pairs(corpus, [0], BUNDLED.model_copy(update=settings), COLUMNS, own_columns=True, store=store)[0]
    assert least.pair_ids == ("13",)  # the copy shares more
    assert 0 < least.ngram_overlap[0] < 0.9


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("./nowhere", "no such folder"),
        ("{empty}", "holds no sentence encoder"),
        ("no/such/hub id", "cannot be loaded"),
    ],
)
def test_a_wrong_encoder_is_refused(tmp_path: Path, encoder: str, message: str) -> None:
    with pytest.raises(UserError, match=f"pairs.encoder: .*{message}"):
        encoder_fingerprint(encoder.replace("{empty}", str(tmp_path)))


def test_an_encoder_is_read_again_only_where_it_was_the_reason() -> None:
    """As Ray tells of an actor whose constructor failed, and of one that was lost."""
    from ray.exceptions import ActorDiedError, RayTaskError

    said = "Traceback (most recent call last):\nicu_ray.errors.UserError: pairs.encoder=x: has no weights"
    refused = RayTaskError("Embedder.__init__", said, UserError("pairs.encoder=x: has no weights"))
    assert is_refusal(ActorDiedError.from_task_error(refused)) and is_refusal(refused)
    assert not is_refusal(ActorDiedError())


def test_the_paper_s_exact_copies(shared: Path) -> None:
    """Spec 1.2: 23, 24 and 31 of the 128 targets have a pool row with the same 100 embedded tokens."""
    data = ExtractionData(
        source="extraction",
        folder=str(shared / "data" / "lm_extraction"),
        tokenizer=str(shared / "data" / "gpt2_tokenizer"),
    )
    corpus = open_extraction(data, [0, 1, 2]).corpus()
    texts = embedded_texts(corpus.rows, Columns(), own_columns=False)
    assert len(texts.distinct) == 12699
    counts = [
        int(np.isin(texts.of_row[corpus.targets[sample]], texts.of_row[corpus.pools[sample]]).sum())
        for sample in (0, 1, 2)
    ]
    assert counts == [23, 24, 31]


def test_the_oracle_s_pairs(ray_cluster: None, shared: Path, tmp_path: Path) -> None:
    """The reference's neighbours of 16 real targets, among every 12th row below 1500 and the neighbours themselves."""
    folder = shared / "oracles" / "A"
    inputs = json.loads((folder / "inputs.json").read_text())
    data = ExtractionData(
        source="extraction",
        folder=str(shared / "data" / "lm_extraction"),
        tokenizer=str(shared / "data" / "gpt2_tokenizer"),
    )
    extraction = open_extraction(data, [0])
    long_enough = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    some = np.union1d(np.arange(0, 1500, 12), inputs["pair_doc_ids"])
    some = np.setdiff1d(some, extraction.targets[0])
    texts = extraction.examples(some).texts
    some = np.array([row for row, text in zip(some, texts, strict=True) if len(long_enough.encode(text).ids) >= 200])
    chosen = dataclasses.replace(extraction, targets={0: np.array(inputs["target_doc_ids"])}, pools={0: some})
    pairs = find_pairs(chosen.corpus(), [0], BUNDLED, Columns(), own_columns=False, store=Store(str(tmp_path)))[0]
    assert [int(row) for row in pairs.pair_ids] == inputs["pair_doc_ids"]
    assert pairs.similarity is not None
    assert ((pairs.ngram_overlap == 1.0) <= (pairs.similarity > 0.99)).all()
