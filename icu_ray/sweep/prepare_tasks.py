"""The preparation's work on Ray: a function for each kind of artefact, and what runs them.

    with PreparationTasks(on_step) as tasks:
        pairs, records = tasks.run("pairs", {"num_cpus": 0}, pairs_task, root, config, corpus, samples, own_columns)

Each function is a streaming Ray task: it yields Steps, and at last what it made with a record of every artefact that it
asked the store for. Which of them run, and in which order, is sweep/prepare.py's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from icu_ray.config import Columns, ModelConfig, SweepConfig
from icu_ray.console.progress import Step, listening
from icu_ray.console.streaming import streamed
from icu_ray.data.corpus import Corpus
from icu_ray.trial.alternates import AlternatesRequest, make_alternates
from icu_ray.trial.artefact_making import ArtefactRequest, make_artefacts, measure_retrained
from icu_ray.trial.artefacts import (
    ArtefactKey,
    ArtefactKeys,
    ArtefactRecord,
    RecordingStore,
    RetrainedKeys,
    get_artefact,
)
from icu_ray.trial.model_training import TrainingRequest, train_model

if TYPE_CHECKING:
    from icu_ray.data.long_texts import LongTexts
    from icu_ray.data.pairing import Pairs

log = logging.getLogger(__name__)
_T = TypeVar("_T")
RETRIES = 3
"""Times a task is started anew after the death of its worker or node."""


class PreparationTasks:
    """Runs streaming Ray tasks from several threads; those under way end when the block is left by an exception.

    So an interruption also ends the threads that wait for them.
    """

    def __init__(self, on_step: Callable[[Step], None]) -> None:
        self._on_step = on_step
        self._ends: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._left = False

    def __enter__(self) -> PreparationTasks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        with self._lock:
            self._left = True
            for end in self._ends:
                end()

    def run(
        self, name: str, resources: Mapping[str, Any], function: Any, *arguments: Any, controls: bool = False
    ) -> Any:
        """What a task yields last; the steps it yields before are passed on as those of `name`.

        controls: it controls a worker group, which Ray Train allows in actors alone.
        """
        import ray
        from ray.exceptions import ActorDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError

        lost = 0
        while True:
            item: Any = None
            try:
                for reference in self._submit(resources, function, arguments, controls):
                    item = ray.get(reference)
                    if isinstance(item, Step):
                        self._on_step(replace(item, name=name))
                return item
            except (ActorDiedError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError):
                lost += 1
                if lost > RETRIES:
                    raise
                log.warning("%s: its worker died; it is started again", name, exc_info=True)
                self._on_step(Step(name, None, "again, because its worker died", event=True))

    def _submit(
        self, resources: Mapping[str, Any], function: Any, arguments: Sequence[Any], controls: bool
    ) -> Iterator[Any]:
        import ray

        with self._lock:
            if self._left:
                raise CancelledError
            running: Any
            # Not retried by Ray, which would go on at the item where the first run ended: a second one, which finds
            # part of its work in the store, tells less.
            if controls:
                actor: Any = ray.remote(max_restarts=0, max_task_retries=0, **resources)(_Controller).remote()
                running = actor.run.options(num_returns="streaming").remote(function, *arguments)
                end = partial(ray.kill, actor)
            else:
                task = ray.remote(num_returns="streaming", max_retries=0, **resources)(function)
                running = task.remote(*arguments)
                end = partial(ray.cancel, running, force=True)
            self._ends.append(end)
        try:
            for reference in running:  # noqa: UP028 - `yield from` would close Ray's generator, which knows no such thing
                yield reference
        finally:
            with self._lock:
                self._ends.remove(end)  # with it goes the last hold on an actor, whose process then ends


class _Controller:
    """An actor around a task."""

    def run(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        """What it yields."""
        yield from function(*arguments)


def standin_task(
    root: str,
    key: ArtefactKey,
    settings: Any,
    texts: Sequence[str],
    forget: Mapping[int, Sequence[str]],
    columns: Columns,
    long: LongTexts = "cut",
    boundaries: Mapping[str, int] | None = None,
    like: ArtefactKey | None = None,
) -> Iterator[Step | list[ArtefactRecord]]:
    """Train a stand-in. settings: the config's `models.N.standin`; forget: the targets of each sample.

    like: key of another one, with whose tokenizer and as long as which it is trained: the gold standard.
    """
    store = RecordingStore(root)

    def work(tell: Callable[[Step], None]) -> None:
        def make(folder: Path) -> None:
            from icu_ray.training.standins import NGRAM, build_standin

            other = None if like is None else get_artefact(store, "models", like)

            part = 0.0

            def progress(epoch: Any) -> None:
                nonlocal part
                extraction = "" if epoch.el is None else f", EL{NGRAM} {epoch.el:.2f}"
                text = f"epoch {epoch.epoch}" + ("" if epoch.ma is None else f", MA {epoch.ma:.2f}{extraction}")
                # MA rises nearly evenly up to where the training ends; its last part is slower.
                known = epoch.ma / settings.min_memorization if epoch.ma and settings.min_memorization else 0.0
                part = min(max(part, known, epoch.epoch / epoch.max_epochs), 0.95)
                tell(Step("", part, text))

            tell(Step("", 0.0, "training"))
            build_standin(settings, texts, forget, columns, folder, progress, long, boundaries, other)

        store.get_or_make("models", key, make)

    yield from streamed(work)
    yield store.records


def training_task(request: TrainingRequest) -> Iterator[Step | list[ArtefactRecord]]:
    """Train a model on the sweep's texts, by a worker group that this task controls."""
    store = RecordingStore(request.root)
    yield from streamed(lambda tell: train_model(request, store, tell))
    yield store.records


def retrained_task(
    request: ArtefactRequest, keys: ArtefactKeys, retrained: ArtefactKey | ModelConfig
) -> Iterator[Step | tuple[RetrainedKeys, list[ArtefactRecord]]]:
    """What the gold standard of one model and sample measures."""
    yield (yield from _stages(lambda: measure_retrained(request, keys, retrained)))


def pairs_task(
    root: str,
    config: SweepConfig,
    corpus: Corpus,
    samples: Sequence[int],
    own_columns: bool,
    chosen: Sequence[Mapping[int, NDArray[np.int64]] | None] = (None,),
) -> Iterator[Step | tuple[list[dict[int, Pairs]], list[ArtefactRecord]]]:
    """The pairs of every sample, by Ray Data; or those of `chosen` (see `find_pairs`), of which only is measured how
    much text they share."""
    from icu_ray.data.pairing import find_pairs

    store = RecordingStore(root)

    def work() -> list[dict[int, Pairs]]:
        columns = config.columns.value()
        asked = corpus, samples, config.pairs, columns
        return [find_pairs(*asked, own_columns=own_columns, store=store, chosen=each) for each in chosen]

    found = yield from _stages(work)
    yield found, store.records


def alternates_task(
    request: AlternatesRequest,
) -> Iterator[Step | tuple[tuple[tuple[str, ...], ...], list[ArtefactRecord]]]:
    """What a model invents for the targets of one sample, by Ray Data."""
    alternates, record = yield from _stages(lambda: make_alternates(request))
    yield alternates, [record]


def artefacts_task(request: ArtefactRequest) -> Iterator[Step | tuple[ArtefactKeys, list[ArtefactRecord]]]:
    """Rows, reference and 'before' of one model and sample."""
    yield (yield from _stages(lambda: make_artefacts(request)))


def _stages(work: Callable[[], _T]) -> Generator[Step, None, _T]:
    """The stages of long work as steps; returns what it returns."""
    found: list[_T] = []

    def listened(tell: Callable[[Step], None]) -> None:
        with listening(lambda stage, part: tell(Step("", part and min(part, 0.999), stage, stage))):
            found.append(work())

    yield from streamed(listened)
    return found[0]
