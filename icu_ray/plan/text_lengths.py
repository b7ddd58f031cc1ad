"""How long texts are in a model's own tokens, before anything starts.

    lengths, positions = lengths_in("my-model", texts)
    refuse_texts_too_long(config)                        # where the config says rows.long=refuse

Needs the model's tokenizer, so it loads transformers; a plan that does not ask for it does without.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

from icu_ray.config import RecordsData, SweepConfig
from icu_ray.data.long_texts import refuse_long_texts
from icu_ray.data.sources import load_corpus

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
