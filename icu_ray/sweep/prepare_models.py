"""Models that are trained before the trials: stand-ins, fine-tuned ones, and the gold standard of either.

    maker = ModelMaker(config, store_root, tasks, on_step, done, WorkerLimit(config.resources.max_workers))
    key = maker.make(model, corpus)                             # the store's key of the trained model
    maker.make(model, corpus, without=0, like=key)              # of the same, which never read forget sample 0

What decides a key is in trial/artefacts.py; prepare_tasks.py has the tasks that train.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from icu_ray.cluster.runtime import CONTROL
from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.console.progress import Step
from icu_ray.data.corpus import Corpus
from icu_ray.data.examples import Examples
from icu_ray.data.training_texts import training_texts
from icu_ray.sweep.prepare_tasks import PreparationTasks, standin_task, training_task
from icu_ray.trial.artefacts import ArtefactKey, ArtefactRecord, model_key, retrained_key
from icu_ray.trial.model_training import TrainingRequest, free_left_group, training_folder

if TYPE_CHECKING:
    from icu_ray.data.long_texts import LongTexts


class WorkerLimit:
    """No more training workers at one time than resources.max_workers allows; who asks first is served first."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._free = threading.Condition()
        self._claimed = 0
        self._asked, self._served = 0, 0

    @contextlib.contextmanager
    def claimed(self, workers: int) -> Iterator[None]:
        """Wait for so many, and hold them for the time of the block. A plan refuses more than there can be."""
        with self._free:
            turn, self._asked = self._asked, self._asked + 1
            self._free.wait_for(lambda: turn == self._served and self._fits(workers))
            self._claimed, self._served = self._claimed + workers, self._served + 1
            self._free.notify_all()
        try:
            yield
        finally:
            with self._free:
                self._claimed -= workers
                self._free.notify_all()

    def _fits(self, workers: int) -> bool:
        return self._most is None or self._claimed + workers <= self._most or not self._claimed


@dataclass(frozen=True)
class ModelMaker:
    """root: the store's place. done: told the name of what was made or found, and the store's records of it."""

    config: SweepConfig
    root: str
    tasks: PreparationTasks
    on_step: Callable[[Step], None]
    done: Callable[[str, Sequence[ArtefactRecord]], None]
    workers: WorkerLimit

    def make(
        self, model: ModelConfig, corpus: Corpus, without: int | None = None, like: ArtefactKey | None = None
    ) -> ArtefactKey:
        """Train a model, or find it. without: a forget sample that it does not read; it is then trained as long as the
        model with the key `like`, which does."""
        rows = corpus.rows if model.train is None else training_texts(self.config, model, corpus.rows)
        key: ArtefactKey = model_key(model, self.config, corpus.fingerprint())
        if without is not None and like is not None:
            targets = corpus.to_forget(without)
            rows, key = rows.select(_places(rows, targets, inside=False)), retrained_key(like, targets)
        name = f"stand-in {model.name}" if model.train is None else f"training {model.name}"
        name += "" if without is None else f" without sample {without}"
        train = self._standin if model.train is None else self._finetune
        self.done(name, train(name, model, key, rows, corpus, like))
        return key

    def _finetune(
        self, name: str, model: ModelConfig, key: ArtefactKey, rows: Examples, corpus: Corpus, like: ArtefactKey | None
    ) -> Sequence[ArtefactRecord]:
        samples = {} if like else {s: _places(rows, corpus.to_forget(s)) for s in sorted(corpus.targets)}
        place = training_folder(self.config, key)
        asked = TrainingRequest(self.root, place, self.config, model, key, rows, samples, like)
        resources: dict[str, Any] = {"num_cpus": 0, "resources": dict(CONTROL)}
        self.on_step(Step(name, None, "waiting for its workers"))
        try:
            with self.workers.claimed(model.workers):
                records: Sequence[ArtefactRecord] = self.tasks.run(name, resources, training_task, asked, controls=True)
        except Exception:
            free_left_group(asked)
            raise
        return records

    def _standin(
        self, name: str, model: ModelConfig, key: ArtefactKey, rows: Examples, corpus: Corpus, like: ArtefactKey | None
    ) -> Sequence[ArtefactRecord]:
        self.on_step(Step(name, None, "waiting for a CPU"))
        read = set(rows.texts)
        forget = {
            sample: [text for text in corpus.to_forget(sample).texts if text in read]
            for sample in sorted(corpus.targets)
        }
        given = None if rows.boundaries is None else dict(zip(rows.texts, rows.boundaries, strict=True))
        long: LongTexts = "windows" if self.config.rows.long == "windows" else "cut"
        columns = self.config.columns.value()
        told = (self.root, key, model.standin, rows.texts, forget, columns, long, given, like)
        records: Sequence[ArtefactRecord] = self.tasks.run(name, {"num_cpus": 1}, standin_task, *told)
        return records


def _places(rows: Examples, targets: Examples, inside: bool = True) -> NDArray[np.int64]:
    """Which rows are among these texts, or which are not."""
    texts = set(targets.texts)
    return np.flatnonzero([(text in texts) is inside for text in rows.texts])
