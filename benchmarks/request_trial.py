"""One deletion request as `icu-ray requests` would run it, in this process: no Ray, no store, no report.

The config is `icu-ray unlearn`'s own, and so are data, pairs' rule, training loop and thresholds. What a request costs
beyond this (start of Ray, shared artefacts, checkpoints, report, record) benchmarks/requests_over_time.py measures with
the command's own code. It is no benchmark itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.config import Columns, StandinConfig
from icu_ray.data.corpus import Corpus
from icu_ray.data.encoder import bundled_encoder
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.pair_draws import pair_draws
from icu_ray.data.pairing import ngram_overlap
from icu_ray.data.sources import counts_own_tokens, load_corpus
from icu_ray.data.synthetic import make_records
from icu_ray.data.tokens import tokenise
from icu_ray.models.adapters import attach, merge_adapter
from icu_ray.models.loading import load_model
from icu_ray.models.reference import build_reference
from icu_ray.requests.request_config import unlearn_config
from icu_ray.requests.unlearn import plan_request
from icu_ray.training.loop import run_trial
from icu_ray.training.records import TrialData
from icu_ray.trial.artefacts import Needs

COLUMNS = Columns(64, 32, 48)
WORDS = 20
UNREAD = 32
ASKED = 32
"""Kept texts whose loss is measured."""
STANDIN = StandinConfig(vocabulary=1024, target_repeats=8)
COMMON = (
    "rows.long=cut",  # a few texts are longer; the stand-in has read their first 64 tokens alone
    "pairs.encoder=bundled",
    "filter.encoder=bundled",
    "filter.encoder_layer=6",
    "filter.rule=never",
)


@dataclass(frozen=True)
class World:
    """The model that knows all texts, and the files. forget: the texts of each request."""

    folder: Path
    kind: str
    forget: tuple[tuple[str, ...], ...]
    keep: tuple[str, ...]

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def options(self, method: str) -> dict[str, object]:
        """Of `icu-ray requests init`."""
        files = {"retain": str(self.file("keep")), "heldout": str(self.file("heldout")), "id_column": "id"}
        return {**files, "length": COLUMNS.length, "beta": 4.0, "gpus": 0, "method": method}


def make_world(folder: Path, requests: int, count: int, kind: str) -> World:
    """The texts and their files; as many are kept as are to be forgotten."""
    split = requests * count
    texts = [" ".join(text.split()[:WORDS]) for text in make_records(7, 0, 2 * split + UNREAD, COLUMNS.length)]
    forget = tuple(tuple(texts[start : start + count]) for start in range(0, split, count))
    world = World(folder, kind, forget, tuple(texts[split : 2 * split]))
    folder.mkdir(parents=True, exist_ok=True)
    parts = {f"forget-{number}": each for number, each in enumerate(forget, start=1)}
    parts |= {"keep": world.keep, "keep-asked": world.keep[:ASKED], "heldout": tuple(texts[2 * split :])}
    for name, each in parts.items():
        rows = [json.dumps({"id": f"{name}-{place}", "text": text}) + "\n" for place, text in enumerate(each)]
        if not world.file(name).exists():  # another call may be reading it
            world.file(name).write_text("".join(rows), encoding="utf-8")
    return world


@dataclass(frozen=True)
class Done:
    """How a trial ended. start: MA of its texts before it. cpu: processor seconds of this process."""

    status: str
    epochs: int
    start: float | None
    seconds: float
    cpu: float


def unlearn_here(
    world: World, base: Path, names: Sequence[str], out: Path, method: str, overrides: Sequence[str]
) -> Done:
    """Make the model `out` of `base`, which forgets the texts of the files `names`; in `distributed(0, 1)`."""
    began, cpu = time.perf_counter(), time.process_time()
    union = world.folder / f"{out.name}.union.jsonl"
    union.write_text("".join(world.file(name).read_text(encoding="utf-8") for name in names), encoding="utf-8")
    options = world.options(method)
    config = unlearn_config(
        str(base), forget=str(union), out=str(world.folder / "out"), overrides=[*COMMON, *overrides], **options
    )  # type: ignore[arg-type]
    plan = plan_request(config, dry_run=True)
    trial, corpus = plan.trials[0], load_corpus(config)
    settings, lora = trial.settings, config.models[0].lora
    loaded = load_model(str(base), dtype="bfloat16" if config.models[0].precision == "bf16" else "float32")

    def rows(examples: Examples) -> TokenRows:
        own = counts_own_tokens(config, False)
        return tokenise(examples, loaded.tokenizer, config.columns.value(), config.tokens, own_columns=own)

    needs = Needs.of([trial])
    targets, pairs, pool = rows(corpus.to_forget(trial.sample)), None, np.asarray(corpus.pools[trial.sample])
    draws = pair_draws(config, settings.max_epochs, len(targets), len(pool)) if needs.pairs else None
    if needs.pairs:
        chosen = nearest(corpus, trial.sample) if draws is None else pool[draws.pool_rows]
        pairs = rows(corpus.rows.select(chosen))
    torch.manual_seed(settings.seed)
    reference = None
    if needs.reference:
        losses = targets if needs.token_losses else None
        cached = needs.cache(config.kl.cache)
        reference = build_reference(loaded.model, pairs, cached, targets=losses, distributions=needs.distributions)
    if lora is not None:
        attach(loaded.model, lora, settings.seed, str(base))
    data = TrialData(targets, pairs, None if corpus.heldout is None else rows(corpus.heldout), reference, draws=draws)
    outcome = run_trial(settings, data, loaded.model, loaded.tokenizer)
    if lora is not None:
        merge_adapter(loaded.model)
    loaded.model.save_pretrained(out)
    loaded.tokenizer.save_pretrained(out)
    seconds = time.perf_counter() - began, time.process_time() - cpu
    return Done(outcome.status, outcome.epochs, outcome.before.ma, *seconds)


def nearest(corpus: Corpus, sample: int) -> NDArray[np.int64]:
    """Row of the pool that is nearest to each target and shares at most a tenth of its 10-grams."""
    vectors = embedded(tuple(corpus.rows.texts))
    found, pool = [], np.asarray(corpus.pools[sample])
    for target in corpus.targets[sample]:
        order = pool[np.argsort(-(vectors[pool] @ vectors[target]), kind="stable")]
        words = corpus.rows.texts[target].split()
        found.append(next(row for row in order if ngram_overlap(words, corpus.rows.texts[row].split()) <= 0.1))
    return np.array(found, dtype=np.int64)


_VECTORS: dict[str, NDArray[np.float32]] = {}


@cache
def _encoder():  # type: ignore[no-untyped-def]
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(bundled_encoder()), device="cpu")


def embedded(texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, D) unit vectors; each text is embedded once a process."""
    new = [text for text in dict.fromkeys(texts) if text not in _VECTORS]
    if new:
        made = _encoder().encode(new, normalize_embeddings=True, show_progress_bar=False)
        _VECTORS.update(zip(new, made, strict=True))
    return np.stack([_VECTORS[text] for text in texts])
