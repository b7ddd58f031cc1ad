"""Texts that a model is fine-tuned on from a file of their own (models.N.train.data).

check_training_texts(config, corpus)        # before anything starts
texts = training_texts(config, model, corpus.rows)
"""

from __future__ import annotations

from pathlib import Path

from icu_ray.config import ModelConfig, RecordsData, SweepConfig
from icu_ray.data.corpus import Corpus
from icu_ray.data.examples import Examples
from icu_ray.data.records import examples_of, read_records
from icu_ray.errors import UserError


def training_texts(config: SweepConfig, model: ModelConfig, rows: Examples) -> Examples:
    """What a model learns: its own file's texts, or else `rows`, all texts to forget and the pool."""
    assert model.train is not None
    if model.train.data is None:
        return rows
    key = f"models.{config.models.index(model)}.train.data" if model in config.models else "train.data"
    if not isinstance(config.data, RecordsData):
        raise UserError(f"{key}: {model.train.data}: needs data.source=records, found {config.data.source}")
    return examples_of(read_records(Path(model.train.data), config.data.form, None, key, "train"))


def check_training_texts(config: SweepConfig, corpus: Corpus | None) -> None:
    """UserError for a file that lacks a text to forget, or holds a held-out one, which nothing is to have learnt."""
    for number, model in enumerate(config.models):
        if model.train is None or model.train.data is None:
            continue
        file, key = model.train.data, f"models.{number}.train.data"
        known = set(training_texts(config, model, Examples((), ())).texts)
        if corpus is None:
            continue
        for sample in sorted(corpus.targets):
            targets = corpus.to_forget(sample)
            lacking = [name for name, text in zip(targets.ids, targets.texts, strict=True) if text not in known]
            if lacking:
                raise UserError(
                    f"{key}: {file}: lacks {len(lacking)} of the {len(targets)} texts to forget of sample {sample}, "
                    f"the first is '{lacking[0]}'; a model that never read them has nothing to forget"
                )
        heldout = corpus.heldout
        both = [] if heldout is None else [n for n, t in zip(heldout.ids, heldout.texts, strict=True) if t in known]
        if both:
            raise UserError(
                f"{key}: {file}: holds {len(both)} held-out texts, the first is '{both[0]}'; they are to show what a "
                "model knows of texts that it never read; remove them"
            )
