"""How long texts are in a model's own tokens, before anything starts.

    found = lengths_in("my-model", examples)
    remarks = check_texts(config)                        # rows.long=refuse; full prompts, short completions
    target_rows(config, model, sample=0, texts=12)       # rows.long=windows: more than 12

Needs the model's tokenizer, so it loads transformers; a plan that does not ask for it does without.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import ModelConfig, RecordsData, SweepConfig
from icu_ray.config.data import RowForm
from icu_ray.data.corpus import Corpus
from icu_ray.data.examples import Examples
from icu_ray.data.long_texts import refuse_long_texts, window_starts
from icu_ray.data.prompts import refuse_full_prompt
from icu_ray.data.records import examples_of, read_records
from icu_ray.errors import UserError
from icu_ray.models.hub import looks_local

COUNTED = 10_000
"""Rows of a file whose prompts a plan counts in tokens; of a larger one those with the longest."""
_NAMED = 5
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


@dataclass(frozen=True)
class Lengths:
    """Tokens of whole rows as a model reads them.

    given: how many of each are its prompt; None: plain texts. positions: what the model can read; None: not known.
    """

    whole: tuple[int, ...]
    given: tuple[int, ...] | None
    positions: int | None


def check_texts(config: SweepConfig, corpus: Corpus | None, *, dry_run: bool = False) -> tuple[str, ...]:
    """UserError for texts that a trial can do nothing with; what else must be said of them.

    Refused: with rows.long=refuse a text to forget that is longer than a row, a prompt that fills a row, and a forget
    file of completions that are all too short for EL where EL must fall too. A stand-in has no tokenizer before it is
    trained: its texts are counted when its rows are made. corpus: what of the config's texts is read; extraction: None.
    dry_run: a model of a hub that does not answer is no reason to refuse.
    """
    data = config.data
    if corpus is None or not isinstance(data, RecordsData) or not (config.rows.long == "refuse" or data.prompted):
        return ()
    remarks = []
    for model in config.models:
        if model.source is None:
            continue
        told = model.revision, model.trust_remote_code
        if dry_run and not can_be_had(model.source, model.revision):
            remarks.append(f"{model.name}: its tokenizer is not here, so whether texts fit its rows is not known yet.")
            continue
        for rows in filter(None, (corpus.rows, corpus.heldout) if data.prompted else ()):
            always = np.concatenate(list(corpus.targets.values())) if rows is corpus.rows else ()
            some = rows.select(counted := longest_prompts(rows, always))
            for name, given in zip(some.ids, lengths_in(model.source, some, *told).given or (), strict=True):
                refuse_full_prompt(name, given, config.columns.length)
            if len(counted) < len(rows):
                remarks.append(
                    f"{data.heldout if rows is corpus.heldout else data.pool}: the {COUNTED:,} rows with the longest "
                    f"prompts were counted in tokens of {model.name}, and fit; the others are taken to fit too."
                )
        for sample in config.samples:
            targets = corpus.to_forget(sample)
            found = lengths_in(model.source, targets, *told)
            where = f"{data.forget.replace('{sample}', str(sample))} in tokens of {model.name}"
            if config.rows.long == "refuse":
                refuse_long_texts(targets.ids, found.whole, config.columns.length, where, found.positions)
            remarks.append(_short_completions(config, targets.ids, found, where))
    return tuple(filter(None, remarks))


def can_be_had(source: str, revision: str | None) -> bool:
    """Whether a model's tokenizer is on this machine, or on a hub that answers."""
    from icu_ray.models.loading import local_folder

    try:
        local_folder(source, revision, weights=False)
    except UserError:
        return looks_local(source)  # what is wrong with a folder, whoever reads it tells
    return True


def longest_prompts(rows: Examples, always: Sequence[int] | NDArray[np.int64] = ()) -> NDArray[np.int64]:
    """Which rows with prompts are counted in tokens: `always` these, of the others the COUNTED with most letters."""
    assert rows.boundaries is not None
    letters = np.array(rows.boundaries, dtype=np.int64)
    letters[np.asarray(always, dtype=np.int64)] = (first := np.iinfo(np.int64).max)
    most = COUNTED + int((letters == first).sum())
    return np.sort(np.argsort(-letters, kind="stable")[:most])


def _short_completions(config: SweepConfig, ids: Sequence[str], found: Lengths, where: str) -> str:
    """What to say of completions without an n-gram of EL; '' for none. UserError where all are and EL must fall."""
    ngram, length = config.el.ngram, config.columns.length
    if config.rows.long == "windows":
        length = max(found.whole, default=0)
    counts = [min(whole, length) - max(given, 1) for whole, given in zip(found.whole, found.given or (), strict=False)]
    short = [f"{name} ({count})" for name, count in zip(ids, counts, strict=False) if count < ngram]
    if not short:
        return ""
    named = ", ".join(short[:_NAMED]) + (f" and {len(short) - _NAMED} more" if len(short) > _NAMED else "")
    said = f"{len(short)} of {len(ids)} completions with fewer than {ngram} tokens, so that they have no EL{ngram}"
    if len(short) == len(ids) and all((method.stop.rule or config.stop.rule) != "or" for method in config.methods):
        raise UserError(
            f"el.ngram={ngram}: {where}: {said}, and none could be found forgotten: {named}; expected at most "
            f"el.ngram={max(max(counts), 1)}"
        )
    return f"{where}: {said} and count as not measured: {named}. A lower el.ngram measures them."


def target_rows(config: SweepConfig, model: ModelConfig, sample: int, texts: int) -> int:
    """Rows of a sample's targets: one a text, but each window of a text that is longer than a row (rows.long=windows).

    A stand-in has no tokenizer before it is trained, and a model may not be there yet: then one a text too.
    """
    if config.rows.long != "windows" or not isinstance(config.data, RecordsData) or model.source is None:
        return texts
    file = config.data.forget.replace("{sample}", str(sample))
    read = (file, config.data.form, config.data.id_column)
    found = _rows(*read, model.source, model.revision, model.trust_remote_code, config.columns.length)
    return texts if found is None else found


@functools.lru_cache(maxsize=256)
def _rows(
    file: str, form: RowForm, name: str | None, source: str, revision: str | None, remote_code: bool, length: int
) -> int | None:
    """Asked for each cell of a grid, and again while a sweep runs; so a file is counted once a process.

    None where it cannot be; that too is found once, for it may take as long as a hub that does not answer.
    """
    told = revision, remote_code
    try:
        counts = lengths_in(source, examples_of(read_records(Path(file), form, name, "data.forget")), *told).whole
        (around,) = lengths_in(source, Examples(("none",), ("",)), *told).whole  # the tokenizer's own tokens
    except UserError:
        return None
    return sum(len(window_starts(count - around, length - around)) for count in counts)


def lengths_in(
    source: str, examples: Examples, revision: str | None = None, trust_remote_code: bool = False
) -> Lengths:
    """How long rows are as this model reads them. UserError for rows that it cannot read."""
    from icu_ray.data.tokens import row_lengths
    from icu_ray.models.loading import load_tokenizer

    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    return Lengths(*row_lengths(examples, tokenizer), positions_in(source, revision))


def positions_in(source: str, revision: str | None = None) -> int | None:
    """How many tokens a model can read, by its config.json; None: not known."""
    from icu_ray.models.loading import local_folder, with_base

    found = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # what is wrong with it, checking the model tells
        folder, _ = with_base(local_folder(source, revision, weights=False), source, weights=False)
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = [described[key] for key in _POSITIONS if isinstance(described.get(key), int)]
    return min(found) if found else None
