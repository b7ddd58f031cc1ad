"""Which paraphrases of the prompts to forget the audit's attack `prompt` asks, and whether they can be read.

    check_paraphrases(config, dry_run=False)
    by_id = paraphrases_asked(config, corpus.to_forget(0), 0)

A column of the user's own forget file comes first, then what the data's benchmark has.
"""

from __future__ import annotations

import functools
from pathlib import Path

from icu_ray.config import RecordsData, SweepConfig
from icu_ray.data.examples import Examples
from icu_ray.data.paraphrases import paraphrases_of, read_paraphrases, written_paraphrases
from icu_ray.evaluation.benchmarks.rows import has_paraphrases, known_paraphrases
from icu_ray.storage.store import content_hash


def paraphrases_from(config: SweepConfig, sample: int) -> str | None:
    """What they are from: a column and the hash of its texts, or the benchmark; None: there are none."""
    data = config.data
    if not isinstance(data, RecordsData):
        return None
    if data.paraphrases_column is not None:
        state = Path(data.forget.replace("{sample}", str(sample))).stat()
        return f"column {data.paraphrases_column}: {_texts_hash(data, sample, state.st_mtime_ns, state.st_size)}"
    return "benchmark" if data.benchmark is not None and has_paraphrases(data.benchmark) else None  # type: ignore[arg-type]


@functools.lru_cache(maxsize=64)
def _texts_hash(data: RecordsData, sample: int, *state: int) -> str:
    """state: when the file was written, and its size; a changed file is read again."""
    return content_hash([list(texts) for texts in read_paraphrases(data, sample)])


def check_paraphrases(config: SweepConfig, *, dry_run: bool = False) -> None:
    """UserError where they are to be asked and cannot be read. dry_run: a benchmark's are not got from a hub."""
    data = config.data
    if not isinstance(data, RecordsData) or "prompt" not in config.audit.names:
        return
    if data.paraphrases_column is not None:
        for sample in config.samples:
            read_paraphrases(data, sample)
    elif data.benchmark is not None:
        known_paraphrases(data.benchmark, from_hub=not dry_run)  # type: ignore[arg-type]


def paraphrases_asked(config: SweepConfig, targets: Examples, sample: int) -> dict[str, tuple[str, ...]]:
    """By the id of a target, written as its prompt is. targets: all of the sample's, in their order."""
    data = config.data
    if not isinstance(data, RecordsData) or "prompt" not in config.audit.names:
        return {}
    if data.paraphrases_column is not None:
        return written_paraphrases(targets, data.form, read_paraphrases(data, sample))
    if data.benchmark is None:
        return {}
    return paraphrases_of(targets, data.form, known_paraphrases(data.benchmark))  # type: ignore[arg-type]
