"""What several trials share, each made exactly once and kept in the store: S or 1 times, never S x C.

    stand-ins,           one a model, and of the   a Ray task each, side by side, telling its progress; of models that
    trained models       gold standard one a       are fine-tuned it controls a worker group as a trial has
                         model and sample
    embeddings, pairs    one a sample              Ray Data, by data/pairing.py; of random pairs one a sample and seed
    alternates           one a model and target    what the model invents (answers.alternates=generated): Ray Data,
                                                   by trial/alternates.py
    rows                 one a model and sample    targets, pairs and held-out rows in the model's vocabulary; of random
                                                   pairs all rows of the pool that the seeds can draw, each once
    reference, before    one a model and sample    the frozen original model's cache, and its own measurement
    head                 one a model               the frozen output matrix that goes with every reference

    prepared = prepare(plan, join(config.storage, "store"), on_step=print)
    prepared.artefacts["icu-small", 0]    # the keys by which a trial finds what it needs

Every artefact's name is the hash of what decides its content, so running again finds all of it. What cannot be made
fails the trials that need it, with the reason, and no others. This file says what is made and in which order;
sweep/prepare_models.py and prepare_tasks.py do it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import ModelConfig
from icu_ray.console.progress import Step
from icu_ray.data.chosen_pairs import chosen_pairs, pairs_fingerprint
from icu_ray.data.corpus import Corpus
from icu_ray.data.pair_draws import PairDraws, pair_draws
from icu_ray.data.sources import counts_own_tokens, load_corpus
from icu_ray.errors import UserError
from icu_ray.methods import RETRAINED
from icu_ray.models.retrained import published_retrained
from icu_ray.plan.estimates import parameters_of
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.sweep.prepare_answers import second_answers
from icu_ray.sweep.prepare_models import ModelMaker, WorkerLimit
from icu_ray.sweep.prepare_tasks import (
    PreparationTasks,
    alternates_task,
    artefacts_task,
    pairs_task,
    retrained_task,
)
from icu_ray.sweep.prepared import ModelSample, Prepared
from icu_ray.trial.alternates import AlternatesRequest
from icu_ray.trial.artefact_making import ArtefactRequest
from icu_ray.trial.artefacts import (
    ArtefactKey,
    ArtefactKeys,
    ArtefactRecord,
    Needs,
    RetrainedKeys,
    model_key,
    pinned,
)

if TYPE_CHECKING:
    from icu_ray.data.pairing import Pairs
    from icu_ray.storage.store import JsonValue

log = logging.getLogger(__name__)
_T = TypeVar("_T")
COPY_OVERLAP = 0.9
"""Share of a target's 10-grams from which its pair counts as a copy: learnt and unlearned at once."""


def prepare(plan: Plan, root: str, on_step: Callable[[Step], None] = lambda step: None) -> Prepared:
    """Make or find everything that the plan's waiting trials need; needs a running Ray. `root` is the store's place."""
    return _Preparation(plan, root, on_step).run()


@dataclass
class _Preparation:
    plan: Plan
    root: str
    on_step: Callable[[Step], None]
    records: list[ArtefactRecord] = field(default_factory=list)
    not_invented: dict[ModelSample, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.plan.config
        self.tasks = PreparationTasks(self.on_step)
        limit = WorkerLimit(self.config.resources.max_workers)
        self.maker = ModelMaker(self.config, self.root, self.tasks, self.on_step, self._done, limit)
        waiting: dict[ModelSample, list[Trial]] = {}
        for trial in self.plan.waiting:
            waiting.setdefault((trial.model.name, trial.sample), []).append(trial)
        self.needs = {model_sample: Needs.of(trials) for model_sample, trials in waiting.items()}
        self.gold = {m for m, trials in waiting.items() if any(t.settings.method == RETRAINED for t in trials)}
        self.models = {trial.model.name: pinned(trial.model) for trial in self.plan.waiting}

    def run(self) -> Prepared:
        if not self.needs:
            return Prepared({}, {}, ())
        self.on_step(Step("data", None, "reading"))
        corpus = load_corpus(self.config)
        self.on_step(Step("data", 1, f"{len(corpus.rows)} rows"))
        # The largest first: what they claim of a cluster is given in the order of asking.
        made = sorted((m for m in self.models.values() if m.made_here), key=parameters_of, reverse=True)
        with ThreadPoolExecutor(len(made) + 2 + len(self.needs) + len(self.gold)) as pool, self.tasks:
            built = {model.name: pool.submit(self.maker.make, model, corpus) for model in made}
            pairs = {
                own: pool.submit(self._pairs, corpus, own)
                for own in sorted({self._own(self.models[name]) for (name, _), n in self.needs.items() if n.pairs})
            }
            futures = {
                (name, sample): pool.submit(self._artefacts, name, sample, corpus, built.get(name), pairs)
                for name, sample in sorted(self.needs)
            }
            gold = {
                (name, sample): pool.submit(self._retrained, name, sample, corpus, built, futures[name, sample])
                for name, sample in sorted(self.gold)
            }
            artefacts, failures = _results(futures)
            retrained, not_retrained = _results(gold)
        keys = {own: keys for own, (_, keys) in artefacts.items()}
        return Prepared(keys, failures, tuple(self.records), retrained, not_retrained, self.not_invented)

    def _own(self, model: ModelConfig) -> bool:
        return counts_own_tokens(self.config, model.standin is not None)

    def _model_key(self, model: ModelConfig, corpus: Corpus) -> dict[str, JsonValue]:
        return model_key(model, self.config, corpus.fingerprint())

    def _retrained(
        self,
        name: str,
        sample: int,
        corpus: Corpus,
        built: Mapping[str, Future[ArtefactKey]],
        prepared: Future[tuple[ArtefactRequest, ArtefactKeys]],
    ) -> RetrainedKeys:
        """The gold standard of one model and sample, trained here or published, and its measurement."""
        model = self.models[name]
        gold = published_retrained(model) or self.maker.make(model, corpus, without=sample, like=built[name].result())
        request, keys = prepared.result()
        step = f"{name} {'without' if model.retrained is True else 'as published without'} sample {sample}"
        self.on_step(Step(step, None, "waiting for its resources"))
        resources = {"num_cpus": model.cpus_per_worker, "num_gpus": min(1, model.gpus)}
        found: RetrainedKeys
        found, records = self.tasks.run(step, resources, retrained_task, request, keys, gold)
        self._done(step, records)
        return found

    def _draws(self, model: ModelConfig, corpus: Corpus, sample: int) -> PairDraws | None:
        epochs = self.config.most_epochs(model)
        return pair_draws(self.config, epochs, len(corpus.targets[sample]), len(corpus.pools[sample]))

    def _chosen(self, corpus: Corpus, samples: Sequence[int]) -> list[dict[int, NDArray[np.int64]] | None]:
        """Pairs that need not be sought, those of each seed where they are drawn; [None] where they are sought."""
        if self.config.pairs.by != "random":
            chosen = chosen_pairs(self.config, corpus.rows.ids, corpus.targets, corpus.pools)
            planned = {} if self.plan.data is None else self.plan.data.samples
            for sample, rows in (chosen or {}).items():
                counts = planned.get(sample)
                if counts and counts.pairs and counts.pairs != pairs_fingerprint(corpus.rows.ids, rows):
                    raise UserError(f"pairs.file: {self.config.pairs.file}: has changed since the sweep was planned")
            return [chosen]
        longest = max(self.models.values(), key=self.config.most_epochs)
        draws = {sample: self._draws(longest, corpus, sample) for sample in samples}
        return [
            {sample: corpus.pools[sample][each.all_drawn(seed)] for sample, each in draws.items() if each is not None}
            for seed in self.config.all_seeds
        ]

    def _pairs(self, corpus: Corpus, own_columns: bool) -> list[dict[int, Pairs]]:
        """Of every sample; where pairs are drawn, once for each seed."""
        if self.config.train.anchor == "retain":
            self.on_step(Step("pairs", 1, "drawn while a trial runs; how many repeat their target is not counted"))
            return []
        self.on_step(Step("pairs", None, "waiting for a CPU"))
        samples = sorted({sample for (_, sample), needs in self.needs.items() if needs.pairs})
        chosen = self._chosen(corpus, samples)
        # In a task, not here: Ray Data's own threads would outlive an interruption of this process.
        resources, asked = {"num_cpus": 0}, (self.root, self.config, corpus, samples, own_columns, chosen)
        found: list[dict[int, Pairs]]
        found, records = self.tasks.run("pairs", resources, pairs_task, *asked)
        overlaps = [overlap for each in found for pairs in each.values() for overlap in pairs.ngram_overlap.tolist()]
        copies = sum(overlap >= COPY_OVERLAP for overlap in overlaps)
        told = f"; {copies} of {len(overlaps)} pairs repeat their target"
        from icu_ray.data.pairing import NGRAM

        cut = self.config.pairs.max_ngram_overlap
        if cut is not None and (above := sum(overlap > cut for overlap in overlaps)):
            told += f"; {above} share more than {cut:g} of their target's {NGRAM}-grams, no candidate shared less"
        self._done("pairs", records, told)
        return found

    def _artefacts(
        self,
        name: str,
        sample: int,
        corpus: Corpus,
        built: Future[ArtefactKey] | None,
        pairs: Mapping[bool, Future[list[dict[int, Pairs]]]],
    ) -> tuple[ArtefactRequest, ArtefactKeys]:
        """Rows, reference and 'before' of one model and sample, as soon as what they rest on is there."""
        needs, model = self.needs[name, sample], self.models[name]
        made = None if built is None else built.result()
        targets = corpus.to_forget(sample)
        found = [each[sample] for each in pairs[self._own(model)].result()] if needs.pairs else []
        draws = self._draws(model, corpus, sample) if needs.pairs else None
        known = self._model_key(model, corpus)
        invented = None
        if "alternates" in needs.answers and self.config.answers.alternates == "generated":
            asked = AlternatesRequest(self.root, self.config, model, made, known, targets)
            invented = self._invented(asked, sample)
            if invented is None:  # which fails the trials that read them, and no others
                needs = replace(needs, answers=tuple(kind for kind in needs.answers if kind != "alternates"))
        own_pairs = found[0] if found and draws is None else None
        pair_rows = None if own_pairs is None else own_pairs.pair_rows
        if draws is not None:
            pair_rows = corpus.pools[sample][draws.pool_rows]
            if not draws.epochs:
                shared = [tuple(each.ngram_overlap.tolist()) for each in found]
                draws = replace(draws, overlap=dict(zip(draws.seeds, shared, strict=True)))
        request = ArtefactRequest(
            root=self.root,
            config=self.config,
            model=model,
            made=made,
            model_key=known,
            targets=targets,
            pairs=None if pair_rows is None else corpus.rows.select(pair_rows),
            pair_overlap=None if own_pairs is None else tuple(own_pairs.ngram_overlap.tolist()),
            heldout=corpus.heldout if corpus.heldout is not None and len(corpus.heldout) else None,
            needs=needs,
            draws=draws,
            answers=second_answers(self.plan, model, corpus, sample, needs, invented),
        )
        step = f"{name}, sample {sample}"
        self.on_step(Step(step, None, "waiting for its resources"))
        resources = {"num_cpus": model.cpus_per_worker, "num_gpus": min(1, model.gpus)}
        keys: ArtefactKeys
        keys, records = self.tasks.run(step, resources, artefacts_task, request)
        self._done(step, records)
        if keys.long_texts:
            self.on_step(Step(step, 1, keys.long_texts, event=True))
        return request, keys

    def _invented(self, asked: AlternatesRequest, sample: int) -> tuple[tuple[str, ...], ...] | None:
        """What the model invents for the targets of a sample; None where it cannot."""
        step = f"{asked.model.name}, sample {sample}: alternates"
        self.on_step(Step(step, None, "waiting for its resources"))
        try:
            # In a task that takes nothing, as the pairs are: the actors that it has Ray Data start take the resources.
            found: tuple[tuple[str, ...], ...]
            found, records = self.tasks.run(step, {"num_cpus": 0}, alternates_task, asked)
        except Exception as error:
            log.exception("alternates of %s, sample %d", asked.model.name, sample)
            self.not_invented[asked.model.name, sample] = _reason(error)
            self.on_step(Step(step, 1, _reason(error), event=True))
            return None
        self._done(step, records)
        return found

    def _done(self, name: str, records: Sequence[ArtefactRecord], more: str = "") -> None:
        self.records += records
        for record in records:
            log.info("%s: %s %s", "made" if record.made else "reused", record.kind, record.name[:12])
        seconds = sum(record.seconds for record in records if record.made)
        made = any(record.made for record in records)
        self.on_step(Step(name, 1, (f"made in {seconds:.0f} s" if made else "found in the store") + more))


def _results(futures: Mapping[ModelSample, Future[_T]]) -> tuple[dict[ModelSample, _T], dict[ModelSample, str]]:
    """What was made, and why the rest was not."""
    made: dict[ModelSample, _T] = {}
    failures: dict[ModelSample, str] = {}
    for model_sample, future in futures.items():
        try:
            made[model_sample] = future.result()
        except Exception as error:
            log.exception("preparing %s, sample %d", *model_sample)
            failures[model_sample] = _reason(error)
    return made, failures


def _reason(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
    first = next((line for line in str(cause).splitlines() if line.strip()), "")
    return f"preparation: {first}" if type(cause).__name__ == "UserError" else f"{type(cause).__name__}: {first}"
