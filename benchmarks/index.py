"""From which size on does an approximate search for neighbours pay, and what does it miss?

    python benchmarks/index.py [--json] [--rows N] [--real FOLDER]

`pairs.index: approximate` (faiss's inverted file over cells that all shards share) beside exact, for 1,000 targets
among 15,000, 150,000 and 1,500,000 clustered unit vectors of 384 numbers, by what one actor does with its shards of at
most 65,536, on one core: seconds for 1,000 targets, recall@1, and the cosine lost on average. An index serves one
search only, so its making counts; `worth from` is the number of targets above which both together are the faster way.
--real adds the extraction benchmark's 12,699 texts and samples 0, 1, 2 (FOLDER: lm_extraction, beside gpt2_tokenizer),
which takes minutes of embedding: `embedding s` is what finding the vectors cost, beside which the search has to matter.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from growth import POOLS, clustered, machine, question, ray_here, scan, show, some_rows

from icu_ray.config import Columns, ExtractionData
from icu_ray.data.embedding import embed_texts
from icu_ray.data.extraction import open_extraction
from icu_ray.data.neighbours import approximate_shard, exact_shard, make_cells
from icu_ray.data.pairing import embedded_texts
from icu_ray.storage.store import Store


def index(vectors: np.ndarray, targets: np.ndarray, name: str) -> dict[str, Any]:
    """Approximate beside exact; a missed neighbour is one that is less similar than the exact one by over 1e-6."""
    asked = question(targets, len(vectors))
    _, exact, nearest = scan(vectors, asked, exact_shard)
    started = time.perf_counter()
    cells = make_cells(vectors)
    making = time.perf_counter() - started
    filling, approximate, near = scan(vectors, asked, lambda block: approximate_shard(block, cells))
    lost = np.array([a[0].similarity - (b[0].similarity if b else -1.0) for a, b in zip(nearest, near, strict=True)])
    thousand = 1000 / len(targets)
    gain = (exact - approximate) / len(targets)
    return {
        "case": f"{name} {len(vectors)}",
        "size": len(vectors),
        "cells": len(cells),
        "making": making + filling,
        "ours": approximate * thousand,
        "other": exact * thousand,
        "ratio": exact / approximate,
        "recall": float((lost <= 1e-6).mean()),
        "lost": float(lost.mean()),
        "embedding": None,
        "worth_from": (making + filling) / gain if gain > 0 else None,
    }


def real(folder: Path) -> dict[str, Any]:
    """The benchmark's texts, embedded by the bundled encoder; the targets of samples 0, 1 and 2."""
    corpus = open_extraction(
        ExtractionData(source="extraction", folder=str(folder), tokenizer=str(folder.parent / "gpt2_tokenizer")),
        [0, 1, 2],
    ).corpus()
    texts = embedded_texts(corpus.rows, Columns(), own_columns=False)
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        vectors = embed_texts(texts.distinct, "bundled", Store(place), actors=1, batch_size=64)
        seconds = time.perf_counter() - started
        targets = np.unique(np.concatenate([texts.of_row[rows] for rows in corpus.targets.values()]))
        return {**index(vectors, targets, "real texts"), "embedding": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=POOLS[-1], help="largest pool (default 1500000; 2.3 GB on disk)")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="the extraction benchmark's folder")
    arguments = parser.parse_args()
    found = []
    with ray_here():
        for rows in (pool for pool in POOLS if pool <= arguments.rows):
            with tempfile.TemporaryDirectory() as place:
                found.append(index(clustered(rows, Path(place) / "vectors.npy"), some_rows(rows, 1000), "clustered"))
        if arguments.real is not None:
            found.append(real(arguments.real))
    if arguments.json:
        print(json.dumps({"rows": found, "machine": machine()}))
        return
    show(
        found,
        {
            "other": "exact s/1000",
            "ours": "approx s/1000",
            "ratio": "ratio",
            "making": "index made s",
            "worth_from": "worth from",
            "recall": "recall@1",
            "lost": "cosine lost",
            "embedding": "embedding s",
        },
    )


if __name__ == "__main__":
    main()
