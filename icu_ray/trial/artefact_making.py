"""Makes what the trials on one model and one forget sample share, and leaves it in the store.

One Ray task makes rows, reference, head and 'before' row together, so that the model is loaded at most once, and only
if one of them is missing. What is in the store already is found by its key.

    keys, records = make_artefacts(ArtefactRequest(...))         # in a Ray task, by sweep/prepare_tasks.py
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.config import ModelConfig, RecordsData, SweepConfig
from icu_ray.data.embedding import encoder_identity
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.long_texts import long_texts_said
from icu_ray.data.pair_draws import PairDraws
from icu_ray.data.second_answers import AnswerDraws, Answers
from icu_ray.data.sources import counts_own_tokens
from icu_ray.models.fingerprints import folder_fingerprint, model_fingerprint
from icu_ray.models.retrained import Kind, check_no_pickles, check_same_kind
from icu_ray.storage.store import JsonValue, Store
from icu_ray.trial.artefacts import (
    VERSION,
    ArtefactKey,
    ArtefactKeys,
    ArtefactRecord,
    Needs,
    RecordingStore,
    RetrainedKeys,
    columns_key,
    get_artefact,
    load_original,
    load_rows,
    save_rows,
)

if TYPE_CHECKING:
    from icu_ray.data.long_texts import LongTexts
    from icu_ray.models.loading import LoadedModel


@dataclass(frozen=True)
class ArtefactRequest:
    """All that the task of one model and sample is told; it reads no file of the user's but the model."""

    root: str
    config: SweepConfig
    model: ModelConfig
    made: ArtefactKey | None
    model_key: ArtefactKey
    targets: Examples
    pairs: Examples | None
    pair_overlap: tuple[float, ...] | None
    heldout: Examples | None
    needs: Needs
    draws: PairDraws | None = None
    answers: Mapping[Answers, tuple[AnswerDraws, Examples]] = field(default_factory=dict)
    """Of second answers of each kind, which are drawn, and the rows that they make."""


def make_artefacts(request: ArtefactRequest) -> tuple[ArtefactKeys, list[ArtefactRecord]]:
    """The task: rows, then what needs the model, which is loaded at most once and only if something is missing."""
    import torch

    from icu_ray.models.reference import save_head

    torch.set_num_threads(request.model.cpus_per_worker)
    store = RecordingStore(request.root)
    config, needs = request.config, request.needs
    loaded: list[LoadedModel] = []

    def model() -> LoadedModel:
        if not loaded:
            loaded.append(load_original(request.model, request.made, store))
        return loaded[0]

    parts = {"targets": request.targets, "pairs": request.pairs, "heldout": request.heldout}
    keys: dict[str, ArtefactKey] = {}
    rows: dict[str, TokenRows] = {}
    for part, examples in parts.items():
        if examples is None:
            continue
        # Where the end of a pair or of a held-out text is cut off, nothing is claimed of it. But a threshold that
        # held-out texts set must be of the same kind as what is compared with it: the worst window of a text.
        long: LongTexts = config.rows.long
        if part == "pairs" or (part == "heldout" and long == "refuse"):
            long = "cut"
        if part == "pairs" and rows["targets"].texts is not None and request.draws is None:
            examples = examples.select(rows["targets"].texts)  # each window has its text's pair beside it
        keys[part] = _rows_key(request, examples, long)
        make = functools.partial(_make_rows, examples=examples, request=request, store=store, long=long)
        rows[part] = load_rows(store.get_or_make("rows", keys[part], make))
    for kind, (_, examples) in request.answers.items():
        keys[kind] = _rows_key(request, examples, "cut")
        make = functools.partial(_make_rows, examples=examples, request=request, store=store, long="cut")
        rows[kind] = load_rows(store.get_or_make("rows", keys[kind], make))
    reference_key: ArtefactKey | None = None
    cache = needs.cache(config.kl.cache)
    if needs.reference:
        answers: JsonValue = {kind: dict(keys[kind]) for kind in sorted(request.answers)}
        reference_key = {
            "pairs": keys.get("pairs"),
            "targets": keys["targets"] if needs.token_losses else None,
            "cache": cache,
            "precision": request.model.precision,
            "version": VERSION,
            # What came later stands there only where it is asked for.
            **({"answers": answers} if request.answers and needs.token_losses else {}),
            **({"compared": keys["targets"], "pairs kept": needs.distributions} if needs.compared else {}),
            **({"layers": list(needs.layers)} if needs.layers else {}),
        }
        store.get_or_make("references", reference_key, lambda folder: _make_reference(folder, model(), rows, request))
    head_key: ArtefactKey | None = None
    if cache == "hidden":
        head_key = {"model": request.model_key, "precision": request.model.precision, "version": VERSION}
        store.get_or_make("heads", head_key, lambda folder: save_head(model().model, folder))
    before_key: ArtefactKey = {
        "targets": keys["targets"],
        "heldout": keys.get("heldout"),
        "heldout_measure": "whole",
        "distinct": "variety",
        "precision": request.model.precision,
        "version": VERSION,
        "filter": {
            **config.filter.model_dump(
                mode="json", include={"bleu_tokenizer", "encoder_layer", "beams", "strip_special", "prompt"}
            ),
            "encoder": encoder_identity(config.filter.encoder),
        },
        "generate": config.generate.model_dump(mode="json"),
        "el": config.el.model_dump(mode="json"),
        "eval": config.eval.model_dump(mode="json", exclude={"chunk", "el", "heldout"}),
    }
    store.get_or_make("before", before_key, lambda folder: _make_before(folder, model(), rows, config))
    model_hash = _model_hash(request, store)
    found = ArtefactKeys(
        request.made,
        model_hash,
        keys,
        before_key,
        reference_key,
        head_key,
        request.pair_overlap,
        _long_texts(rows["targets"], config),
        request.draws,
        answers={kind: draws for kind, (draws, _) in request.answers.items()},
    )
    return found, store.records


def measure_retrained(
    request: ArtefactRequest, keys: ArtefactKeys, retrained: ArtefactKey | ModelConfig
) -> tuple[RetrainedKeys, list[ArtefactRecord]]:
    """The task: what the gold standard measures on the sample's rows. keys: of the same request. retrained: of one that
    was trained here the store's key, of a published one its description; UserError where that is another kind of model.
    """
    import torch

    torch.set_num_threads(request.model.cpus_per_worker)
    store = RecordingStore(request.root)
    rows = {part: load_rows(get_artefact(store, "rows", keys.rows[part])) for part in keys.rows if part != "pairs"}

    def make(folder: Path) -> None:
        made = None if isinstance(retrained, ModelConfig) else retrained
        loaded = load_original(retrained if isinstance(retrained, ModelConfig) else request.model, made, store)
        if isinstance(retrained, ModelConfig):
            _check_published(request, loaded, retrained, store)
        _make_before(folder, loaded, rows, request.config)

    if not isinstance(retrained, ModelConfig):
        key: ArtefactKey = {**keys.before, "retrained": retrained}
        store.get_or_make("before", key, make)
        return RetrainedKeys(retrained, key), store.records
    folder = _folder_of_published(retrained)
    key = {**keys.before, "retrained": model_fingerprint(retrained, request.config.chats)}
    store.get_or_make("before", key, make)
    return RetrainedKeys(None, key, folder_fingerprint(folder)), store.records


def _folder_of_published(retrained: ModelConfig) -> Path:
    from icu_ray.models.loading import local_folder

    assert retrained.source is not None
    folder = local_folder(retrained.source, retrained.revision)
    check_no_pickles(folder, retrained.source)
    return folder


def _check_published(request: ArtefactRequest, loaded: LoadedModel, retrained: ModelConfig, store: Store) -> None:
    """Again what the plan has checked, where that had no files of a hub's model."""
    from icu_ray.models.architecture import check_architecture, read_config
    from icu_ray.models.loading import load_tokenizer, local_folder, with_base

    model = request.model
    trusted = model.trust_remote_code
    if request.made is None:
        assert model.source is not None
        folder = local_folder(model.source, model.revision, weights=False)
        whole, _ = with_base(folder, model.source, weights=False)
    else:
        folder = whole = get_artefact(store, "models", request.made)
    source = model.source or model.name
    config = read_config(whole, source, trust_remote_code=trusted)
    own = Kind(
        check_architecture(config, source, trust_remote_code=trusted),
        load_tokenizer(str(folder), trust_remote_code=trusted),
    )
    other = Kind(loaded.model, loaded.tokenizer)
    check_same_kind(own, other, source, str(retrained.source), request.config.chats)


def _long_texts(targets: TokenRows, config: SweepConfig) -> str:
    """What to say of whole texts that are longer than a row. Other sources cut rows out of longer texts."""
    if not (isinstance(config.data, RecordsData) or config.data.prompted) or targets.lengths is None:
        return ""
    lengths = [targets.lengths[row] for row in targets.first_rows]
    said = long_texts_said(targets.text_ids, lengths, targets.columns.length)
    if targets.texts is not None:
        return f"{said}; forgotten whole, in overlapping windows, each text judged as one"
    return said and f"{said}; only their beginning is forgotten and measured"


def _model_hash(request: ArtefactRequest, store: Store) -> str:
    from icu_ray.models.loading import local_folder

    if request.made is not None:
        return folder_fingerprint(get_artefact(store, "models", request.made))
    assert request.model.source is not None
    return folder_fingerprint(local_folder(request.model.source, request.model.revision))


def _rows_key(request: ArtefactRequest, examples: Examples, long: LongTexts) -> ArtefactKey:
    config = request.config
    return {
        "version": VERSION,
        "model": request.model_key,
        "content": examples.fingerprint(),
        "columns": columns_key(config.columns.value()),
        "own_columns": counts_own_tokens(config, request.model.standin is not None),
        "tokens": config.tokens.model_dump(mode="json", exclude={"columns_of"}),
        "prompt": config.filter.prompt,
        # Rows of before there was a choice keep their key.
        **({} if long == "cut" else {"long": long}),
        **({} if examples.boundaries is None or config.loss.on == "completion" else {"loss_on": config.loss.on}),
        **({} if examples.chats is None else {"end_of_turn": "first special token"}),
    }


def _make_rows(folder: Path, examples: Examples, request: ArtefactRequest, store: Store, long: LongTexts) -> None:
    from icu_ray.data.tokens import tokenise
    from icu_ray.models.loading import load_tokenizer

    model = request.model
    source = model.source if request.made is None else str(get_artefact(store, "models", request.made))
    assert source is not None
    rows = tokenise(
        examples,
        load_tokenizer(source, revision=model.revision, trust_remote_code=model.trust_remote_code),
        request.config.columns.value(),
        request.config.tokens,
        own_columns=counts_own_tokens(request.config, model.standin is not None),
        prompt=request.config.filter.prompt,
        long=long,
        loss_on=request.config.loss.on,
    )
    save_rows(rows, folder)


def _make_reference(
    folder: Path, original: LoadedModel, rows: Mapping[str, TokenRows], request: ArtefactRequest
) -> None:
    from icu_ray.models.reference import build_reference

    needs = request.needs
    reference = build_reference(
        original.model,
        rows.get("pairs"),
        needs.cache(request.config.kl.cache),
        targets=rows["targets"] if needs.token_losses else None,
        compared=rows["targets"] if needs.compared else None,
        answers={kind: rows[kind] for kind in request.answers} if needs.token_losses else {},
        layers=needs.layers,
        distributions=needs.distributions,
    )
    reference.save(folder)


def _make_before(folder: Path, original: LoadedModel, rows: Mapping[str, TokenRows], config: SweepConfig) -> None:
    from icu_ray.training.validation import Measure, validate

    measure = Measure(config.filter, config.generate, config.el, config.eval)
    validate(original.model, original.tokenizer, rows["targets"], measure, heldout=rows.get("heldout")).save(folder)
