"""What a trial on one model and one forget sample is made of, and the task that makes it in the store.

Rows in the model's vocabulary, the frozen original model's cache (equation 4) and the original model's own measurement
(the 'before' row). One task makes all three, loads the model at most once, and only if one of them is missing. A trial
is handed the keys and finds them again.

    ingredients, notes = measure_original(Work(...))          # in a Ray task, by sweep/prepare.py
    rows = load_rows(get(store, "rows", ingredients.rows["targets"]))
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icu_ray import methods
from icu_ray.config import Columns, ModelConfig, SweepConfig
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.sources import counts_own_tokens
from icu_ray.models.fingerprints import folder_fingerprint, model_fingerprint
from icu_ray.plan.trial import Trial
from icu_ray.storage.store import JsonValue, Store, content_hash

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel

VERSION = 1
"""Raised when the making of rows, references or measurements changes, so that stored ones are not taken for them."""
Key = Mapping[str, JsonValue]


@dataclass(frozen=True)
class Note:
    """One artefact asked of the store: whether it had to be made, and how long that took."""

    kind: str
    name: str
    made: bool
    seconds: float


class Ledger(Store):
    """A store that notes which artefacts it made and which it found."""

    def __init__(self, root: str, cache: str | None = None) -> None:
        super().__init__(root, cache)
        self.notes: list[Note] = []

    def get_or_make(self, kind: str, key: Key, make: Callable[[Path], None]) -> Path:
        """As `Store.get_or_make`."""
        started, made = time.perf_counter(), []

        def noted(folder: Path) -> None:
            made.append(True)
            make(folder)

        found = super().get_or_make(kind, key, noted)
        self.notes.append(Note(kind, content_hash([kind, key]), bool(made), time.perf_counter() - started))
        return found


def get(store: Store, kind: str, key: Key) -> Path:
    """An artefact that was prepared; RuntimeError when it is no longer there."""

    def gone(folder: Path) -> None:
        raise RuntimeError(f"{kind} artefact {content_hash([kind, key])[:12]} left the store; run the command again")

    return store.get_or_make(kind, key, gone)


@dataclass(frozen=True)
class Ingredients:
    """Store keys of what a trial on one model and sample needs.

    model: a stand-in's folder, None for other models. rows: 'targets' and, where there are any, 'pairs' and 'heldout'.
    model_hash: SHA-256 of the original model's files. head: its output matrix, if the reference needs it.
    pair_overlap: see data/pairing.py, one a target.
    """

    model: Key | None
    model_hash: str
    rows: Mapping[str, Key]
    before: Key
    reference: Key | None
    head: Key | None
    pair_overlap: tuple[float, ...] | None


@dataclass(frozen=True)
class Needs:
    """What the methods of the trials on one model and sample want of it."""

    pairs: bool
    distributions: bool
    token_losses: bool

    @staticmethod
    def of(trials: Iterable[Trial]) -> Needs:
        """The union over trials."""
        told = [trial.settings for trial in trials]
        found = [methods.get(s.method, alpha=s.alpha, beta=s.beta, settings=s.method_settings) for s in told]
        return Needs(
            any(m.needs_pairs for m in found),
            any(m.needs_reference for m in found),
            any(m.needs_reference_nll for m in found),
        )


def pinned(model: ModelConfig) -> ModelConfig:
    """A hub's model by its commit, so that every node and every later step takes the same one."""
    from icu_ray.models.hub import commit_of

    if model.source is None:
        return model
    return model.model_copy(update={"revision": commit_of(model.source, model.revision)})


def model_key(model: ModelConfig, columns: Columns, corpus: str) -> dict[str, JsonValue]:
    """What decides a model's weights and vocabulary; a stand-in's are decided by all rows of the sweep too."""
    if model.standin is None:
        return dict(model_fingerprint(model))
    return {**model_fingerprint(model), "corpus": corpus, "columns": _columns(columns), "version": VERSION}


def _columns(columns: Columns) -> list[int]:
    return [columns.length, columns.prefix_start, columns.suffix_start]


@dataclass(frozen=True)
class Work:
    """All that the task of one model and sample is told; it reads no file of the user's but the model."""

    root: str
    config: SweepConfig
    model: ModelConfig
    standin: Key | None
    model_key: Key
    targets: Examples
    pairs: Examples | None
    pair_overlap: tuple[float, ...] | None
    heldout: Examples | None
    needs: Needs


def measure_original(work: Work) -> tuple[Ingredients, list[Note]]:
    """The task: rows, then what needs the model, which is loaded at most once and only if something is missing."""
    import torch

    from icu_ray.models.reference import save_head

    torch.set_num_threads(work.model.cpus_per_worker)
    ledger = Ledger(work.root)
    config, needs = work.config, work.needs
    loaded: list[LoadedModel] = []

    def model() -> LoadedModel:
        if not loaded:
            loaded.append(load(work.model, work.standin, ledger))
        return loaded[0]

    parts = {"targets": work.targets, "pairs": work.pairs, "heldout": work.heldout}
    keys: dict[str, Key] = {}
    rows: dict[str, TokenRows] = {}
    for part, examples in parts.items():
        if examples is None:
            continue
        keys[part] = _rows_key(work, examples)
        make = functools.partial(_make_rows, examples=examples, work=work, store=ledger)
        rows[part] = load_rows(ledger.get_or_make("rows", keys[part], make))
    reference_key: Key | None = None
    if needs.distributions or needs.token_losses:
        reference_key = {
            "pairs": keys.get("pairs"),
            "targets": keys["targets"] if needs.token_losses else None,
            "cache": config.kl.cache if needs.distributions else "none",
            "precision": work.model.precision,
            "version": VERSION,
        }
        ledger.get_or_make("references", reference_key, lambda folder: _make_reference(folder, model(), rows, work))
    head_key: Key | None = None
    if needs.distributions and config.kl.cache == "hidden":
        head_key = {"model": work.model_key, "precision": work.model.precision, "version": VERSION}
        ledger.get_or_make("heads", head_key, lambda folder: save_head(model().model, folder))
    before_key: Key = {
        "targets": keys["targets"],
        "heldout": keys.get("heldout"),
        "precision": work.model.precision,
        "version": VERSION,
        "filter": config.filter.model_dump(
            mode="json", include={"encoder", "encoder_layer", "beams", "strip_special", "prompt"}
        ),
        "generate": config.generate.model_dump(mode="json"),
        "el": config.el.model_dump(mode="json"),
        "eval": config.eval.model_dump(mode="json", exclude={"chunk", "el", "heldout"}),
    }
    ledger.get_or_make("before", before_key, lambda folder: _make_before(folder, model(), rows, config))
    model_hash = _model_hash(work, ledger)
    found = Ingredients(work.standin, model_hash, keys, before_key, reference_key, head_key, work.pair_overlap)
    return found, ledger.notes


def _model_hash(work: Work, store: Store) -> str:
    from icu_ray.models.loading import local_folder

    if work.standin is not None:
        return folder_fingerprint(get(store, "models", work.standin))
    assert work.model.source is not None
    return folder_fingerprint(local_folder(work.model.source, work.model.revision))


def load(model: ModelConfig, standin: Key | None, store: Store) -> LoadedModel:
    """A model of the grid in its training precision, on a GPU where Ray has given this process one."""
    import torch

    from icu_ray.models.loading import load_model

    source = model.source if standin is None else str(get(store, "models", standin))
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


def _rows_key(work: Work, examples: Examples) -> Key:
    config = work.config
    return {
        "version": VERSION,
        "model": work.model_key,
        "content": examples.fingerprint(),
        "columns": _columns(config.columns.value()),
        "own_columns": counts_own_tokens(config, work.model.standin is not None),
        "tokens": config.tokens.model_dump(mode="json", exclude={"columns_of"}),
        "prompt": config.filter.prompt,
    }


def _make_rows(folder: Path, examples: Examples, work: Work, store: Store) -> None:
    from icu_ray.data.tokens import tokenise
    from icu_ray.models.loading import load_tokenizer

    model = work.model
    source = model.source if work.standin is None else str(get(store, "models", work.standin))
    assert source is not None
    rows = tokenise(
        examples,
        load_tokenizer(source, revision=model.revision, trust_remote_code=model.trust_remote_code),
        work.config.columns.value(),
        work.config.tokens,
        own_columns=counts_own_tokens(work.config, model.standin is not None),
        prompt=work.config.filter.prompt,
    )
    save_rows(rows, folder)


def _make_reference(folder: Path, original: LoadedModel, rows: Mapping[str, TokenRows], work: Work) -> None:
    from icu_ray.models.reference import build_reference

    reference = build_reference(
        original.model,
        rows.get("pairs"),
        work.config.kl.cache if work.needs.distributions else "none",
        targets=rows["targets"] if work.needs.token_losses else None,
    )
    reference.save(folder)


def _make_before(folder: Path, original: LoadedModel, rows: Mapping[str, TokenRows], config: SweepConfig) -> None:
    from icu_ray.training.validation import Measure, validate

    measure = Measure(config.filter, config.generate, config.el, config.eval)
    validate(original.model, original.tokenizer, rows["targets"], measure, heldout=rows.get("heldout")).save(folder)


_ARRAYS = ("input_ids", "mask", "labels", "prompt_ids", "prompt_mask")


def save_rows(rows: TokenRows, folder: Path) -> None:
    """Token rows as an .npz of arrays and a .json of the rest."""
    np.savez(folder / "rows.npz", **{name: getattr(rows, name) for name in _ARRAYS})
    rest = {
        "ids": rows.ids,
        "references": rows.references,
        "columns": _columns(rows.columns),
        "pad_id": rows.pad_id,
        "eos_id": rows.eos_id,
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
            **{name: arrays[name] for name in _ARRAYS},
        )
