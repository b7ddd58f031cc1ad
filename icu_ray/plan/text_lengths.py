"""How long texts are in a model's own tokens, before anything starts.

    lengths, positions = lengths_in("my-model", texts)
    refuse_texts_too_long(config)                        # where the config says rows.long=refuse
    target_rows(config, model, sample=0, texts=12)       # where it says rows.long=windows, more than 12

Needs the model's tokenizer, so it loads transformers; a plan that does not ask for it does without.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from icu_ray.config import ModelConfig, RecordsData, SweepConfig
from icu_ray.data.long_texts import refuse_long_texts, window_starts
from icu_ray.data.records import read_records
from icu_ray.data.sources import load_corpus
from icu_ray.errors import UserError

_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


def refuse_texts_too_long(config: SweepConfig) -> None:
    """UserError where rows.long=refuse and a text to forget is longer than a row.

    A stand-in has no tokenizer before it is trained: its texts are counted when its rows are made.
    """
    if config.rows.long != "refuse" or not isinstance(config.data, RecordsData):
        return
    corpus = load_corpus(config)
    for model in config.models:
        for sample in config.samples if model.source is not None else ():
            assert model.source is not None
            targets, _ = corpus.sample(sample)
            lengths, positions = lengths_in(model.source, targets.texts, model.revision, model.trust_remote_code)
            where = f"{config.data.forget.replace('{sample}', str(sample))} in tokens of {model.name}"
            refuse_long_texts(targets.ids, lengths, config.columns.length, where, positions)


def target_rows(config: SweepConfig, model: ModelConfig, sample: int, texts: int) -> int:
    """Rows of a sample's targets: one a text, but each window of a text that is longer than a row (rows.long=windows).

    A stand-in has no tokenizer before it is trained, and a model may not be there yet: then one a text too.
    """
    if config.rows.long != "windows" or not isinstance(config.data, RecordsData) or model.source is None:
        return texts
    file = config.data.forget.replace("{sample}", str(sample))
    read = (file, config.data.text_column, config.data.id_column)
    try:
        return _rows(*read, model.source, model.revision, model.trust_remote_code, config.columns.length)
    except UserError:
        return texts


@functools.lru_cache(maxsize=256)
def _rows(
    file: str, text: str, name: str | None, source: str, revision: str | None, remote_code: bool, length: int
) -> int:
    """Asked for each cell of a grid, and again while a sweep runs; so a file is counted once a process."""
    texts = [record.text for record in read_records(Path(file), text, name, "data.forget")]
    (*counts, around), _ = lengths_in(source, [*texts, ""], revision, remote_code)  # the tokenizer's own tokens
    return sum(len(window_starts(count - around, length - around)) for count in counts)


def lengths_in(
    source: str, texts: Sequence[str], revision: str | None = None, trust_remote_code: bool = False
) -> tuple[tuple[int, ...], int | None]:
    """Tokens of each whole text as this model reads it, and how many the model can read; None: it does not say."""
    from icu_ray.data.tokens import token_counts
    from icu_ray.models.loading import load_tokenizer, local_folder

    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # what is wrong with it, checking the model tells
        file = local_folder(source, revision, weights=False) / "config.json"
        described = json.loads(file.read_text(encoding="utf-8"))
        found = [described[key] for key in _POSITIONS if isinstance(described.get(key), int)]
    return token_counts(texts, tokenizer), min(found) if found else None
