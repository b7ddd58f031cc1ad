"""What a trial needs of the store: the keys by which it finds its artefacts, and reading them again.

The artefacts of one model and forget sample: rows in the model's vocabulary, the frozen original model's cache
(equation 4), and the original model's own measurement (the 'before' row). trial/artefact_making.py makes them, once for
all trials that share them; a trial is handed the keys.

    rows = load_rows(get_artefact(store, "rows", keys.rows["targets"]))
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icu_ray.config import Columns, ModelConfig, SweepConfig
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.pair_draws import PairDraws
from icu_ray.data.second_answers import AnswerDraws, Answers
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.models.retrained import pinned_name
from icu_ray.plan.trial import Trial
from icu_ray.plan.trial_settings import method_of
from icu_ray.storage.store import JsonValue, Store, content_hash

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel
    from icu_ray.models.reference import Cache

VERSION = 2
"""Raised when the making of rows, references or measurements changes, so that stored ones are not taken for them."""
ArtefactKey = Mapping[str, JsonValue]


@dataclass(frozen=True)
class ArtefactRecord:
    """One artefact asked of the store: whether it had to be made, and how long that took."""

    kind: str
    name: str
    made: bool
    seconds: float


class RecordingStore(Store):
    """A store that records which artefacts it made and which it found."""

    def __init__(self, root: str, cache: str | None = None) -> None:
        super().__init__(root, cache)
        self.records: list[ArtefactRecord] = []

    def get_or_make(self, kind: str, key: ArtefactKey, make: Callable[[Path], None]) -> Path:
        """As `Store.get_or_make`."""
        started, made = time.perf_counter(), []

        def noted(folder: Path) -> None:
            made.append(True)
            make(folder)

        found = super().get_or_make(kind, key, noted)
        self.records.append(ArtefactRecord(kind, content_hash([kind, key]), bool(made), time.perf_counter() - started))
        return found


def get_artefact(store: Store, kind: str, key: ArtefactKey) -> Path:
    """An artefact that was prepared; RuntimeError when it is no longer there."""

    def gone(folder: Path) -> None:
        raise RuntimeError(f"{kind} artefact {content_hash([kind, key])[:12]} left the store; run the command again")

    return store.get_or_make(kind, key, gone)


@dataclass(frozen=True)
class RetrainedKeys:
    """Of the gold standard of one model and sample. model: None for a published one. scores: what it measures, as the
    original's 'before'. model_hash: SHA-256 of a published one's files."""

    model: ArtefactKey | None
    scores: ArtefactKey
    model_hash: str = ""


@dataclass(frozen=True)
class ArtefactKeys:
    """Store keys of what a trial on one model and sample needs.

    model: of one that is made here (a stand-in, or fine-tuned), None for other models. rows: 'targets' and, where there
    are any, 'pairs' and 'heldout'. model_hash: SHA-256 of the original model's files. head: its output matrix, if the
    reference needs it. pair_overlap: see data/pairing.py, one a target. long_texts: how many targets are longer than a
    row, which, and what becomes of them; '' for none. draws: of pairs drawn at random, which stands beside which
    target.
    """

    model: ArtefactKey | None
    model_hash: str
    rows: Mapping[str, ArtefactKey]
    before: ArtefactKey
    reference: ArtefactKey | None
    head: ArtefactKey | None
    pair_overlap: tuple[float, ...] | None
    long_texts: str = ""
    draws: PairDraws | None = None
    retrained: RetrainedKeys | None = None
    """For the trial that is the gold standard alone."""
    answers: Mapping[Answers, AnswerDraws] = field(default_factory=dict)
    """Of second answers of each kind, whose rows are in `rows` by its name, which stands beside which target."""

    def of(self, needs: Needs) -> ArtefactKeys:
        """What one trial takes of them: whatever else the sample's other trials need shows nowhere in its files."""
        parts = {"targets", "heldout", *(("pairs",) if needs.pairs else ()), *needs.answers}
        return replace(
            self,
            rows={part: key for part, key in self.rows.items() if part in parts},
            pair_overlap=self.pair_overlap if needs.pairs else None,
            draws=self.draws if needs.pairs else None,
            answers={kind: draws for kind, draws in self.answers.items() if kind in needs.answers},
            reference=self.reference if needs.reference else None,
            head=self.head if needs.reference else None,
        )


@dataclass(frozen=True)
class Needs:
    """What the methods of the trials on one model and sample want of it."""

    pairs: bool
    distributions: bool
    token_losses: bool
    compared: bool = False
    """Whether the original model's distributions on the targets are."""
    layers: tuple[int, ...] = ()
    """Layers of the original model whose states on the pairs are."""
    answers: tuple[Answers, ...] = ()
    """Where second answers come from; () for none."""

    @property
    def reference(self) -> bool:
        """Whether anything of the frozen original is kept."""
        return self.distributions or self.token_losses or self.compared or bool(self.layers)

    def cache(self, configured: Cache) -> Cache:
        """What is kept of it. configured: kl.cache."""
        live = bool(self.layers) and configured == "recompute"
        return configured if self.distributions or self.compared or live else "none"

    @staticmethod
    def of(trials: Iterable[Trial]) -> Needs:
        """The union over trials."""
        found = [method_of(trial.settings) for trial in trials]
        return Needs(
            any(m.needs_pairs for m in found),
            any(m.needs_reference for m in found),
            any(m.needs_reference_nll for m in found),
            any(m.needs_target_reference for m in found),
            tuple(sorted({layer for m in found for layer in m.reference_layers})),
            tuple(sorted({m.answers for m in found if m.needs_alternates and m.answers is not None})),
        )


def pinned(model: ModelConfig) -> ModelConfig:
    """A hub's model, and the published retrained one that it names, by their commits, so that every node and every
    later step takes the same ones."""
    from icu_ray.models.hub import commit_of

    if model.source is None:
        return model
    known: dict[str, str | None] = {"revision": commit_of(model.source, model.revision)}
    if isinstance(model.retrained, str):
        known["retrained"] = pinned_name(model.retrained)
    return model.model_copy(update=known)


def model_key(model: ModelConfig, config: SweepConfig, corpus: str) -> dict[str, JsonValue]:
    """What decides a model's weights and vocabulary; one that is made here is decided by all rows of the sweep too."""
    known = model_fingerprint(model, config.chats)
    if not model.made_here:
        return dict(known)
    key: dict[str, JsonValue] = {**known, "corpus": corpus, "columns": columns_key(config.columns.value())}
    if model.train is not None:
        key["tokens"] = config.tokens.model_dump(mode="json")
        key["precision"], key["loss_on"] = model.precision, config.loss.on
    # Those that rows of one layout are kept for keep their key.
    rows = "windows" if config.rows.long == "windows" else "prompted" if config.data.prompted else None
    return {**key, "version": VERSION, **({} if rows is None else {"rows": rows})}


def retrained_key(model: ArtefactKey, without: Examples) -> ArtefactKey:
    """Of the gold standard: the model with this key, trained without these texts."""
    return {"retrained": model, "without": without.fingerprint(), "version": VERSION}


def columns_key(columns: Columns) -> list[int]:
    """Columns as a part of keys and files."""
    return [columns.length, columns.prefix_start, columns.suffix_start]


def load_original(model: ModelConfig, made: ArtefactKey | None, store: Store) -> LoadedModel:
    """A model of the grid in its training precision, on a GPU where Ray has given this process one.

    made: the store's key of one that was made here; None: it is its `source`.
    """
    import torch

    from icu_ray.models.loading import load_model

    source = model.source if made is None else str(get_artefact(store, "models", made))
    assert source is not None
    loaded = load_model(
        source,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        dtype="bfloat16" if model.precision == "bf16" else "float32",
    )
    if model.gpus and torch.cuda.is_available():
        loaded.model.to("cuda")  # type: ignore[arg-type]
    return loaded


_ARRAYS = ("input_ids", "mask", "labels", "prompt_ids", "prompt_mask")


def save_rows(rows: TokenRows, folder: Path) -> None:
    """Token rows as an .npz of arrays and a .json of the rest."""
    np.savez(folder / "rows.npz", **{name: getattr(rows, name) for name in _ARRAYS})
    rest = {
        "ids": rows.ids,
        "references": rows.references,
        "columns": columns_key(rows.columns),
        "pad_id": rows.pad_id,
        "eos_id": rows.eos_id,
        "positions": rows.positions,
        "lengths": rows.lengths,
        **({} if rows.texts is None else {"texts": rows.texts}),
        **({} if rows.starts is None else {"starts": rows.starts}),
    }
    (folder / "rows.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")


def load_rows(folder: Path) -> TokenRows:
    """What `save_rows` wrote."""
    rest = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    with np.load(folder / "rows.npz", allow_pickle=False) as arrays:
        return TokenRows(
            ids=tuple(rest["ids"]),
            references=tuple(rest["references"]),
            columns=Columns(*rest["columns"]),
            pad_id=rest["pad_id"],
            eos_id=rest["eos_id"],
            positions=rest["positions"],
            lengths=None if rest.get("lengths") is None else tuple(rest["lengths"]),
            texts=None if rest.get("texts") is None else tuple(rest["texts"]),
            starts=None if rest.get("starts") is None else tuple(rest["starts"]),
            **{name: arrays[name] for name in _ARRAYS},
        )
