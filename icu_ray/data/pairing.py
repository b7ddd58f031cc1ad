"""Pairs (analogous texts, section IV-C2): each target's nearest neighbour in the pool, and how much text they share.

Neighbours are found by cosine over sentence embeddings of the distinct texts of all samples (computed once), the
targets of the sample left out, equals taken by row number. Every pair reports the share of the target's 10-grams that
stand in its neighbour too: a fifth of the paper's pairs are exact copies (spec 1.2), which it then learns and unlearns
at once. With `pairs.max_ngram_overlap` such neighbours are passed over for the next of `pairs.candidates` texts; where
all of them share more, `pairs.overlap_fallback` refuses, or takes the one that shares least.

    pairs = find_pairs(corpus, config.samples, config.pairs, columns, own_columns=False, store=store)[0]

Of pairs that come from elsewhere (`pairs.by`: drawn, or chosen by the user) only the shared text is measured.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import Columns, PairsConfig
from icu_ray.data.chosen_pairs import pairs_fingerprint
from icu_ray.data.corpus import Corpus
from icu_ray.data.embedding import encoder_fingerprint, stored_vectors
from icu_ray.data.examples import Examples
from icu_ray.data.neighbours import PROBED, Neighbour, Search, make_cells, search
from icu_ray.data.text_columns import TextColumn, distinct_rows, text_column
from icu_ray.data.vocabulary import decode_rows, load_vocabulary
from icu_ray.errors import UserError
from icu_ray.storage.store import Store

NGRAM = 10
SHARD_ROWS = 65536
"""Distinct texts of one shard by default: 100 MB of 384 float32."""
_FILE = "pairs.json"
_VERSION = 1
"""Raised when the choice of pairs changes, so that stored ones are not taken for it."""


@dataclass(frozen=True)
class Pairs:
    """One neighbour for each target of a sample, in the targets' order; neighbours may repeat.

    pair_rows: (N,) int64 indices of the neighbours in the corpus' rows.
    similarity: (N,) float64 cosine; None: not measured, the pairs are no neighbours.
    ngram_overlap: (N,) float64 share of the target's 10-grams found in the neighbour.
    Of pairs drawn anew for each epoch the targets stand there once an epoch, in the epochs' order.
    """

    target_ids: tuple[str, ...]
    pair_ids: tuple[str, ...]
    pair_rows: NDArray[np.int64]
    similarity: NDArray[np.float64] | None
    ngram_overlap: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.target_ids)


@dataclass(frozen=True)
class Texts:
    """The distinct embedded texts of a corpus.

    distinct: U texts in the order of their first row. of_row: (N,) int64, the text of each row.
    units: N sequences of what 10-grams are made of: the embedded tokens where the source has tokens, else words.
    """

    distinct: Sequence[str]
    of_row: NDArray[np.int64]
    units: Sequence[Sequence[Hashable]]


def embedded_texts(rows: Examples, columns: Columns, own_columns: bool) -> Texts:
    """What stands for a row in the pairing: its prefix and suffix (tokens 100..199), or the whole text."""
    units: Sequence[Sequence[Hashable]]
    if rows.token_rows is not None and rows.tokenizer is not None and not own_columns:
        tokens = rows.token_rows[:, columns.prefix_start : columns.length]
        texts: Sequence[str] = decode_rows(load_vocabulary(rows.tokenizer), tokens)
        units = tuple(tokens.tolist())
    else:
        texts = rows.texts
        units = Words(texts) if rows.token_rows is None else tuple(rows.token_rows.tolist())
        if not isinstance(texts, TextColumn):
            units = tuple(units)
    first, of_row = distinct_rows(texts)
    column = texts if isinstance(texts, TextColumn) else text_column(texts)
    return Texts(column if len(first) == len(column) else column.take(first), of_row, units)


class Words(Sequence[Sequence[Hashable]]):
    """The words of each text, made when they are asked for: of a pool's million texts few come near a target."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, place: Any) -> Any:
        return self._texts[place].split()


def ngram_overlap(target: Sequence[Hashable], other: Sequence[Hashable], n: int = NGRAM) -> float:
    """Share of the target's n-grams, repeats counted, that occur in `other`; a text shorter than n is one n-gram."""
    n = min(n, len(target))
    found = {tuple(other[at : at + n]) for at in range(len(other) - n + 1)}
    grams = [tuple(target[at : at + n]) for at in range(len(target) - n + 1)]
    return sum(gram in found for gram in grams) / len(grams)


def find_pairs(
    corpus: Corpus,
    samples: Sequence[int],
    settings: PairsConfig,
    columns: Columns,
    *,
    own_columns: bool,
    store: Store,
    chosen: Mapping[int, NDArray[np.int64]] | None = None,
) -> dict[int, Pairs]:
    """Pairs of every sample, from the store where they are there already; else a running Ray is needed.

    chosen: pairs that are known, by sample (N,) indices of the corpus' rows, one a target or one a target and epoch;
    then neither Ray nor an encoder is needed. UserError when a target has no neighbour under the overlap cut-off.
    """
    keys = {
        sample: _key(corpus, sample, settings, columns, own_columns)
        if chosen is None
        else _chosen_key(corpus, sample, columns, own_columns, chosen[sample])
        for sample in samples
    }

    def compute(samples: Sequence[int]) -> dict[int, Pairs]:
        if chosen is None:
            return _compute(corpus, samples, settings, columns, own_columns, store)
        texts = embedded_texts(corpus.rows, columns, own_columns)
        return {sample: _measured(corpus, sample, texts, chosen[sample]) for sample in samples}

    missing = [sample for sample in samples if not store.contains("pairs", keys[sample])]
    computed = compute(missing) if missing else {}

    def pairs_of(sample: int) -> Pairs:
        def make(folder: Path) -> None:
            # An artefact that was there but turned out damaged was not among the missing.
            pairs = computed.get(sample) or compute([sample])[sample]
            (folder / _FILE).write_text(_dump(pairs), encoding="utf-8")

        return _load(store.get_or_make("pairs", keys[sample], make) / _FILE, corpus)

    return {sample: pairs_of(sample) for sample in samples}


def _key(
    corpus: Corpus, sample: int, settings: PairsConfig, columns: Columns, own_columns: bool
) -> Mapping[str, str | int | float | None]:
    """Everything that decides the pairs of a sample; shards, actors and batches do not."""
    cut = settings.max_ngram_overlap
    key: dict[str, str | int | float | None] = {
        "version": _VERSION,
        "rows": corpus.check.samples[sample].fingerprint,
        "embedded": _compared(corpus, columns, own_columns),
        "encoder": encoder_fingerprint(settings.encoder),
        "max_ngram_overlap": cut,
        "candidates": 1 if cut is None else settings.candidates,
    }
    if settings.overlap_fallback != "refuse":
        key["overlap_fallback"] = settings.overlap_fallback
    if settings.index == "approximate":
        # The cells are made from all texts, so with them the pairs of a sample depend on the other samples' rows too.
        key["index"] = f"{PROBED} of {corpus.check.fingerprint}"
    return key


def _chosen_key(
    corpus: Corpus, sample: int, columns: Columns, own_columns: bool, rows: NDArray[np.int64]
) -> Mapping[str, str | int | float | None]:
    return {
        "version": _VERSION,
        "rows": corpus.check.samples[sample].fingerprint,
        "embedded": _compared(corpus, columns, own_columns),
        "chosen": pairs_fingerprint(corpus.rows.ids, rows),
    }


def _compared(corpus: Corpus, columns: Columns, own_columns: bool) -> str:
    source_columns = corpus.rows.token_rows is not None and not own_columns
    return f"{columns.prefix_start}:{columns.length}" if source_columns else "whole text"


def _measured(corpus: Corpus, sample: int, texts: Texts, rows: NDArray[np.int64]) -> Pairs:
    """Known pairs of a sample's targets, or of its targets once an epoch."""
    targets: list[int] = np.resize(corpus.targets[sample], len(rows)).tolist()
    others: list[int] = rows.tolist()
    ids, units = corpus.rows.ids, texts.units
    return Pairs(
        tuple(ids[target] for target in targets),
        tuple(ids[row] for row in others),
        rows,
        None,
        np.array([ngram_overlap(units[a], units[b]) for a, b in zip(targets, others, strict=True)], dtype=np.float64),
    )


def _compute(
    corpus: Corpus,
    samples: Sequence[int],
    settings: PairsConfig,
    columns: Columns,
    own_columns: bool,
    store: Store,
) -> dict[int, Pairs]:
    texts = embedded_texts(corpus.rows, columns, own_columns)
    opened = stored_vectors(
        texts.distinct, settings.encoder, store, actors=settings.actors, batch_size=settings.batch_size
    )
    vectors = opened()
    shards = settings.shards or -(-len(texts.distinct) // SHARD_ROWS)
    k = 1 if settings.max_ngram_overlap is None else settings.candidates
    searches = [_search_of(corpus, sample, texts) for sample in samples]
    cells = make_cells(vectors) if settings.index == "approximate" else None
    found = search(vectors, searches, k, shards=shards, actors=settings.actors, cells=cells, opened=opened)
    return {
        sample: _choose(corpus, sample, texts, neighbours, settings)
        for sample, neighbours in zip(samples, found, strict=True)
    }


def _search_of(corpus: Corpus, sample: int, texts: Texts) -> Search:
    """Query and pool as rows of distinct texts; a text is in the pool when some pool row has it."""
    pool = corpus.pools[sample]
    if not len(pool):
        raise UserError(f"pairs: forget sample {sample} has no pool to take neighbours from")
    rank = np.full(len(texts.distinct), len(corpus.rows), dtype=np.int64)
    np.minimum.at(rank, texts.of_row[pool], pool)
    return Search(texts.of_row[corpus.targets[sample]], rank < len(corpus.rows), rank)


def _choose(
    corpus: Corpus,
    sample: int,
    texts: Texts,
    neighbours: Sequence[Sequence[Neighbour]],
    settings: PairsConfig,
) -> Pairs:
    """The first pool row under the cut-off for every target: candidates in order, rows of one text by number."""
    cut = settings.max_ngram_overlap
    pool = np.sort(corpus.pools[sample])
    pool = pool[np.argsort(texts.of_row[pool], kind="stable")]  # rows of one text stand together, by number
    in_order = texts.of_row[pool]

    def rows_of(text: int) -> list[int]:
        low, high = np.searchsorted(in_order, [text, text + 1])
        found: list[int] = pool[low:high].tolist()
        return found

    chosen: list[tuple[int, float, float]] = []
    failed: list[str] = []
    for target, candidates in zip(corpus.targets[sample], neighbours, strict=True):
        least: tuple[int, float, float] | None = None
        for row, similarity in ((row, each.similarity) for each in candidates for row in rows_of(each.row)):
            overlap = ngram_overlap(texts.units[target], texts.units[row])
            if least is None or overlap < least[2]:
                least = (row, similarity, overlap)
            if cut is None or overlap <= cut:
                chosen.append((row, similarity, overlap))
                break
        else:
            if least is not None and settings.overlap_fallback == "least":
                chosen.append(least)
            else:
                failed.append(corpus.rows.ids[target])
    if failed:
        raise UserError(
            f"pairs.max_ngram_overlap: in sample {sample} no neighbour of {len(failed)} targets "
            f"({', '.join(failed[:5])}{', …' if len(failed) > 5 else ''}) shares at most {cut} of the target's "
            f"{NGRAM}-grams among {settings.candidates} candidates; raise pairs.candidates or the cut-off, or set "
            f"pairs.overlap_fallback=least"
        )
    return Pairs(
        tuple(corpus.rows.ids[target] for target in corpus.targets[sample]),
        tuple(corpus.rows.ids[row] for row, _, _ in chosen),
        np.array([row for row, _, _ in chosen], dtype=np.int64),
        np.array([similarity for _, similarity, _ in chosen], dtype=np.float64),
        np.array([overlap for _, _, overlap in chosen], dtype=np.float64),
    )


def _dump(pairs: Pairs) -> str:
    """JSON of the pairs; row indices are left out, they depend on which samples a corpus was loaded with."""
    similarity = [None] * len(pairs) if pairs.similarity is None else pairs.similarity.tolist()
    columns = zip(pairs.target_ids, pairs.pair_ids, similarity, pairs.ngram_overlap.tolist(), strict=True)
    names = ("target", "pair", "similarity", "ngram_overlap")
    return json.dumps([dict(zip(names, values, strict=True)) for values in columns], indent=1, ensure_ascii=False)


def _load(path: Path, corpus: Corpus) -> Pairs:
    entries = json.loads(path.read_text(encoding="utf-8"))
    similarity = [entry["similarity"] for entry in entries]
    wanted = {entry["pair"] for entry in entries}
    row_of = {row_id: number for number, row_id in enumerate(corpus.rows.ids) if row_id in wanted}
    return Pairs(
        tuple(entry["target"] for entry in entries),
        tuple(entry["pair"] for entry in entries),
        np.array([row_of[entry["pair"]] for entry in entries], dtype=np.int64),
        None if None in similarity else np.array(similarity, dtype=np.float64),
        np.array([entry["ngram_overlap"] for entry in entries], dtype=np.float64),
    )
