"""What several trials share, each made exactly once and kept in the store: S or 1 times, never S x C.

    stand-ins            one a model               a Ray task each, side by side, telling its progress
    embeddings, pairs    one a sample              Ray Data, by data/pairing.py
    rows                 one a model and sample    targets, pairs and held-out rows in the model's vocabulary
    reference, before    one a model and sample    the frozen original model's cache, and its own measurement
    head                 one a model               the frozen output matrix that goes with every reference

    prepared = prepare(plan, Store(join(config.storage, "store")), on_step=print)
    prepared.ingredients["icu-small", 0]    # the keys by which a trial finds what it needs

Every artefact's name is the hash of what decides its content, so running again finds all of it. What cannot be made
fails the trials that need it, with the reason, and no others.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.console.progress import Step, listening
from icu_ray.console.streaming import streamed
from icu_ray.data.corpus import Corpus
from icu_ray.data.examples import Columns
from icu_ray.data.sources import counts_own_tokens, load_corpus
from icu_ray.plan.grid import Plan
from icu_ray.plan.trial import Trial
from icu_ray.trial.artefacts import Ingredients, Key, Ledger, Needs, Note, Work, measure_original, model_key, pinned

if TYPE_CHECKING:
    from icu_ray.data.pairing import Pairs

log = logging.getLogger(__name__)
_T = TypeVar("_T")
RETRIES = 3
"""Times a piece is started anew after the death of its worker or node."""
COPY_OVERLAP = 0.9
"""Share of a target's 10-grams from which its analogous text counts as a copy: learnt and unlearned at once."""


@dataclass(frozen=True)
class Prepared:
    """ingredients and failures by (model name, sample); notes: every artefact that was made or found."""

    ingredients: Mapping[tuple[str, int], Ingredients]
    failures: Mapping[tuple[str, int], str]
    notes: tuple[Note, ...]

    def made(self, kind: str) -> int:
        """How many artefacts of a kind had to be made."""
        return sum(note.made for note in self.notes if note.kind == kind)


def prepare(plan: Plan, root: str, on_step: Callable[[Step], None] = lambda step: None) -> Prepared:
    """Make or find everything that the plan's waiting trials need; needs a running Ray. `root` is the store's place."""
    return _Preparation(plan, root, on_step).run()


@dataclass
class _Preparation:
    plan: Plan
    root: str
    on_step: Callable[[Step], None]
    notes: list[Note] = field(default_factory=list)
    _tasks: list[Any] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _left: bool = False

    def __post_init__(self) -> None:
        self.config = self.plan.config
        waiting: dict[tuple[str, int], list[Trial]] = {}
        for trial in self.plan.waiting:
            waiting.setdefault((trial.model.name, trial.sample), []).append(trial)
        self.needs = {cell: Needs.of(trials) for cell, trials in waiting.items()}
        self.models = {trial.model.name: pinned(trial.model) for trial in self.plan.waiting}

    def run(self) -> Prepared:
        if not self.needs:
            return Prepared({}, {}, ())
        self.on_step(Step("data", None, "reading"))
        corpus = load_corpus(self.config)
        self.on_step(Step("data", 1, f"{len(corpus.rows)} rows"))
        standins = [model for model in self.models.values() if model.standin is not None]
        ingredients: dict[tuple[str, int], Ingredients] = {}
        failures: dict[tuple[str, int], str] = {}
        with ThreadPoolExecutor(len(standins) + 2 + len(self.needs)) as pool, self._cancelled_on_leaving():
            built = {model.name: pool.submit(self._standin, model, corpus) for model in standins}
            pairs = {
                own: pool.submit(self._pairs, corpus, own)
                for own in sorted({self._own(self.models[name]) for (name, _), n in self.needs.items() if n.pairs})
            }
            cells = {
                cell: pool.submit(self._cell, cell, corpus, built.get(cell[0]), pairs) for cell in sorted(self.needs)
            }
            for cell, future in cells.items():
                try:
                    ingredients[cell] = future.result()
                except Exception as error:
                    log.exception("preparing %s, sample %d", *cell)
                    failures[cell] = _reason(error)
        return Prepared(ingredients, failures, tuple(self.notes))

    @contextlib.contextmanager
    def _cancelled_on_leaving(self) -> Iterator[None]:
        """An interruption ends the tasks too, so that the threads which wait for them end at once."""
        import ray

        try:
            yield
        except BaseException:
            with self._lock:
                self._left = True
                for task in self._tasks:
                    ray.cancel(task, force=True)
            raise

    def _submit(self, function: Any, *arguments: Any) -> Any:
        """Start a Ray task that ends with this preparation."""
        with self._lock:
            if self._left:
                raise CancelledError
            self._tasks.append(function.remote(*arguments))
            return self._tasks[-1]

    def _followed(self, name: str, room: Mapping[str, Any], function: Any, *arguments: Any) -> Any:
        """Run a streaming Ray task, telling the steps it yields as those of `name`; what it yields last."""
        import ray
        from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

        # Not retried by Ray, which would go on at the item where the first run ended: a second one, which finds part
        # of its work in the store, tells less.
        task = ray.remote(num_returns="streaming", max_retries=0, **room)(function)
        lost = 0
        while True:
            told: Any = None
            try:
                for reference in self._submit(task, *arguments):
                    told = ray.get(reference)
                    if isinstance(told, Step):
                        self.on_step(replace(told, name=name))
                return told
            except (NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError):
                lost += 1
                if lost > RETRIES:
                    raise
                log.warning("%s: its worker died; it is started anew", name, exc_info=True)
                self.on_step(Step(name, None, "again, for its worker died", event=True))

    def _own(self, model: ModelConfig) -> bool:
        return counts_own_tokens(self.config, model.standin is not None)

    def _standin(self, model: ModelConfig, corpus: Corpus) -> Key:
        """Key of a trained stand-in."""
        assert model.standin is not None
        name = f"stand-in {model.name}"
        key = model_key(model, self.config.columns.value(), corpus.fingerprint())
        self.on_step(Step(name, None, "waiting for a CPU"))
        forget = {sample: corpus.sample(sample)[0].texts for sample in sorted(corpus.targets)}
        columns, texts = self.config.columns.value(), corpus.rows.texts
        room = {"num_cpus": 1}
        notes = self._followed(name, room, _build_standin, self.root, key, model.standin, texts, forget, columns)
        self._done(name, notes)
        return key

    def _pairs(self, corpus: Corpus, own_columns: bool) -> dict[int, Pairs]:
        self.on_step(Step("pairs", None, "waiting for a CPU"))
        samples = sorted({sample for (_, sample), needs in self.needs.items() if needs.pairs})
        # In a task, not here: Ray Data's own threads would outlive an interruption of this process.
        room, asked = {"num_cpus": 0}, (self.root, self.config, corpus, samples, own_columns)
        found: dict[int, Pairs]
        found, notes = self._followed("pairs", room, _find_pairs, *asked)
        overlaps = [overlap for pairs in found.values() for overlap in pairs.ngram_overlap.tolist()]
        copies = sum(overlap >= COPY_OVERLAP for overlap in overlaps)
        self._done("pairs", notes, f"; {copies} of {len(overlaps)} pairs repeat their target")
        return found

    def _cell(
        self,
        cell: tuple[str, int],
        corpus: Corpus,
        built: Future[Key] | None,
        pairs: Mapping[bool, Future[dict[int, Pairs]]],
    ) -> Ingredients:
        """Rows, reference and 'before' of one model and sample, as soon as what they rest on is there."""
        (name, sample), needs, model = cell, self.needs[cell], self.models[cell[0]]
        standin = None if built is None else built.result()
        targets, _ = corpus.sample(sample)
        mine = pairs[self._own(model)].result()[sample] if needs.pairs else None
        work = Work(
            root=self.root,
            config=self.config,
            model=model,
            standin=standin,
            model_key=model_key(model, self.config.columns.value(), corpus.fingerprint()),
            targets=targets,
            pairs=None if mine is None else corpus.rows.select(mine.pair_rows),
            pair_overlap=None if mine is None else tuple(mine.ngram_overlap.tolist()),
            heldout=corpus.heldout if corpus.heldout is not None and len(corpus.heldout) else None,
            needs=needs,
        )
        step = f"{name}, sample {sample}"
        self.on_step(Step(step, None, "waiting for its resources"))
        room = {"num_cpus": model.cpus_per_worker, "num_gpus": min(1, model.gpus)}
        found, notes = self._followed(step, room, _measure_original, work)
        self._done(step, notes)
        ingredients: Ingredients = found
        return ingredients

    def _done(self, name: str, notes: Sequence[Note], more: str = "") -> None:
        self.notes += notes
        for note in notes:
            log.info("%s: %s %s", "made" if note.made else "reused", note.kind, note.name[:12])
        seconds = sum(note.seconds for note in notes if note.made)
        made = any(note.made for note in notes)
        self.on_step(Step(name, 1, (f"made in {seconds:.0f} s" if made else "found in the store") + more))


def _reason(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error  # Ray wraps what a task raised
    first = next((line for line in str(cause).splitlines() if line.strip()), "")
    return f"preparation: {first}" if type(cause).__name__ == "UserError" else f"{type(cause).__name__}: {first}"


def _find_pairs(
    root: str, config: SweepConfig, corpus: Corpus, samples: Sequence[int], own_columns: bool
) -> Iterator[Step | tuple[dict[int, Pairs], list[Note]]]:
    """A streaming task: its steps, and at last the pairs of every sample by Ray Data, with the ledger's notes."""
    from icu_ray.data.pairing import find_pairs

    ledger = Ledger(root)

    def work() -> dict[int, Pairs]:
        columns = config.columns.value()
        return find_pairs(corpus, samples, config.pairs, columns, own_columns=own_columns, store=ledger)

    found = yield from _stages(work)
    yield found, ledger.notes


def _measure_original(work: Work) -> Iterator[Step | tuple[Ingredients, list[Note]]]:
    """A streaming task: its steps, and at last what `measure_original` found."""
    yield (yield from _stages(lambda: measure_original(work)))


def _stages(work: Callable[[], _T]) -> Generator[Step, None, _T]:
    """The stages of long work as steps; returns what it returns."""
    found: list[_T] = []

    def listened(tell: Callable[[Step], None]) -> None:
        with listening(lambda stage, part: tell(Step("", part and min(part, 0.999), stage, stage))):
            found.append(work())

    yield from streamed(listened)
    return found[0]


def _build_standin(
    root: str,
    key: Key,
    settings: Any,
    texts: Sequence[str],
    forget: Mapping[int, Sequence[str]],
    columns: Columns,
) -> Iterator[Step | list[Note]]:
    """A streaming task: progress while a stand-in is trained, and at last the ledger's notes."""
    ledger = Ledger(root)

    def work(tell: Callable[[Step], None]) -> None:
        def make(folder: Path) -> None:
            from icu_ray.training.standins import build_standin

            part = 0.0

            def progress(epoch: Any) -> None:
                nonlocal part
                extraction = "" if epoch.el10 is None else f", EL {epoch.el10:.2f}"
                text = f"epoch {epoch.epoch}, MA {epoch.ma:.2f}{extraction}"
                # MA rises nearly evenly up to where the training ends; its last part is slower.
                known = epoch.ma / settings.min_memorization if settings.min_memorization else 0.0
                part = min(max(part, known, epoch.epoch / epoch.max_epochs), 0.95)
                tell(Step("", part, text))

            tell(Step("", 0.0, "training"))
            build_standin(settings, texts, forget, columns, folder, progress)

        ledger.get_or_make("models", key, make)

    yield from streamed(work)
    yield ledger.notes
