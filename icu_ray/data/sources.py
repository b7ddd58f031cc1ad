"""The one front of the three data sources: check first, then load.

`check_data` validates every file that a sweep will read, before Ray starts and without torch: under a second for the
real token file. `load_corpus` gives the rows with their texts. Both raise `UserError` naming file, key and row.

    check = check_data(config)        # counts and fingerprints, for the plan
    corpus = load_corpus(config)      # targets, pool = corpus.sample(0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import ExtractionData, RecordsData, SweepConfig, SyntheticData
from icu_ray.data.chosen_pairs import chosen_pairs, pairs_fingerprint
from icu_ray.data.corpus import Corpus, DataCheck
from icu_ray.data.embedding import check_encoder
from icu_ray.data.extraction import ROW_LENGTH, open_extraction
from icu_ray.data.ignorance import sentences_of
from icu_ray.data.records import load_records
from icu_ray.data.second_answers import Answers, answers_fingerprint
from icu_ray.data.synthetic import load_synthetic
from icu_ray.errors import UserError


def counts_own_tokens(config: SweepConfig, standin: bool) -> bool:
    """Whether a model's columns count its own tokens (True) or the source's (False: GPT-2's, extraction only).

    Stand-ins have a small vocabulary of their own, in which 200 GPT-2 tokens are no 200 tokens; other models take the
    benchmark's rows as they are. tokens.columns_of decides otherwise when it is set.
    """
    if not isinstance(config.data, ExtractionData):
        return True
    return config.tokens.columns_of == "model" or (config.tokens.columns_of == "auto" and standin)


def load_corpus(config: SweepConfig) -> Corpus:
    """All rows of a sweep, with texts."""
    _check_columns(config)
    if isinstance(config.data, ExtractionData):
        return open_extraction(config.data, config.samples).corpus()
    if isinstance(config.data, RecordsData):
        return load_records(config.data, config.samples)
    assert isinstance(config.data, SyntheticData)  # a benchmark is records (config/sweep.py)
    return load_synthetic(config.data, config.samples, config.columns.length)


def check_data(config: SweepConfig) -> DataCheck:
    """Validate everything that `load_corpus` and the pairing will read, and say what it is."""
    return checked_data(config)[0]


def checked_data(config: SweepConfig) -> tuple[DataCheck, Corpus | None]:
    """What `check_data` says, and the corpus where it had to be read for that."""
    _check_columns(config)
    if config.pairs.by == "nearest":
        check_encoder(config.pairs.encoder)
    if isinstance(config.data, ExtractionData):
        found = open_extraction(config.data, config.samples)
        ids = [str(doc_id) for doc_id in range(len(found.tokens))]
        return _with_pairs(found.check(), config, ids, found.targets, found.pools), None
    corpus = load_corpus(config)
    check = _with_pairs(corpus.check, config, corpus.rows.ids, corpus.targets, corpus.pools)
    return _with_answers(check, config, corpus), corpus


def _with_pairs(
    check: DataCheck,
    config: SweepConfig,
    ids: Sequence[str],
    targets: Mapping[int, NDArray[np.int64]],
    pools: Mapping[int, NDArray[np.int64]],
) -> DataCheck:
    """UserError where a user's own choice leaves a target without its pair."""
    chosen = chosen_pairs(config, ids, targets, pools)
    if chosen is None or config.pairs.by != "file":
        return check
    samples = {
        sample: replace(counts, pairs=pairs_fingerprint(ids, chosen[sample]))
        for sample, counts in check.samples.items()
    }
    return replace(check, samples=samples)


def _with_answers(check: DataCheck, config: SweepConfig, corpus: Corpus) -> DataCheck:
    """UserError for a file of sentences that is none."""
    found = {sample: answers_of(config, corpus, sample) for sample in check.samples}
    samples = {
        sample: replace(counts, answers={kind: answers_fingerprint(each) for kind, each in found[sample].items()})
        for sample, counts in check.samples.items()
    }
    return replace(check, samples=samples)


def answers_of(config: SweepConfig, corpus: Corpus, sample: int) -> dict[Answers, tuple[tuple[str, ...], ...]]:
    """What each target of a sample can be answered in place of its own text, by where that comes from.

    {} for texts without prompts. Alternates that a model invents are not known before it is there: they come in where
    the sweep's artefacts are prepared.
    """
    if corpus.rows.boundaries is None:
        return {}
    targets = len(corpus.targets[sample])
    found: dict[Answers, tuple[tuple[str, ...], ...]] = {
        "sentences": (sentences_of(config.answers.sentences),) * targets
    }
    if sample in corpus.alternates:
        found["alternates"] = corpus.alternates[sample]
    return found


def _check_columns(config: SweepConfig) -> None:
    if not isinstance(config.data, ExtractionData):
        if config.tokens.columns_of == "source":
            raise UserError(
                f"tokens.columns_of: 'source' needs rows of tokens, data.source={config.data.source} has texts; "
                "use 'model' or 'auto'"
            )
        return
    by_source = [model.name for model in config.models if not counts_own_tokens(config, model.standin is not None)]
    if by_source and config.columns.length > ROW_LENGTH:
        raise UserError(
            f"columns.length: {config.columns.length} for models {', '.join(by_source)}, whose columns count the "
            f"benchmark's tokens; its rows have {ROW_LENGTH}"
        )
    if by_source and config.rows.long == "windows":
        raise UserError(
            f"rows.long: windows for models {', '.join(by_source)}, whose columns count the benchmark's tokens; its "
            "rows are all of one length, so use cut, or tokens.columns_of=model"
        )
