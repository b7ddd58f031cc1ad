"""The stage: models x tasks x slices of documents through a pool of Ray Data actors, into the store.

    results = evaluate_models([Subject("before", folder, hash)], open_tasks(names, options), store)

Items are ordered by model, and an actor keeps its model until it is given a slice of another; which actor answers a
slice changes no number. Every answered slice goes to the store at once under the hash of model, measure and requests,
and every finished task under that of model and task: what is there is not asked again, by nobody. An actor that dies is
started anew by Ray and its slice is asked again, the others are not. What one model or slice cannot do (a broken file,
too few positions, too little memory) fails its own tasks and no others.

May be called in a thread or a Ray task beside other work; needs a Ray only if something is missing in the store.
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icu_ray.console.progress import told
from icu_ray.data.actor_pool import Pool, asked_of_actors
from icu_ray.errors import UserError
from icu_ray.evaluation.model_requests import Answer, Slice, cut_slices, load_answers, slices_at_once
from icu_ray.evaluation.stage.actors import Answered, Evaluator, default_pool
from icu_ray.evaluation.stage.results import Evaluation, find_evaluation, store_evaluation
from icu_ray.evaluation.task import Task, TaskSource
from icu_ray.models.loading import load_tokenizer
from icu_ray.models.subjects import Subject
from icu_ray.storage.store import Store

if TYPE_CHECKING:
    from pathlib import Path

_KIND, _FILE = "answers", "answers.json"
RETRIES = 5
"""Times a slice is asked again after the death of its actor."""


@dataclass
class _Pending:
    """A task of a model that is not evaluated yet; answers by slice."""

    subject: Subject
    source: TaskSource
    task: Task
    slices: list[Slice]
    answers: dict[int, tuple[Answer, ...]]
    error: str = ""

    @property
    def missing(self) -> list[int]:
        return [number for number in range(len(self.slices)) if number not in self.answers]


def evaluate_models(
    subjects: Sequence[Subject],
    sources: Sequence[TaskSource],
    store: Store,
    *,
    pool: Pool | None = None,
    ray: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    on_slice: Callable[[Answered], None] = lambda answered: None,
    on_done: Callable[[Evaluation], None] = lambda evaluation: None,
) -> list[Evaluation]:
    """Every task of every model, in that order; an Evaluation whose `error` is set could not be made.

    pool: default: see `default_pool`. ray: entered only when something must be computed. on_slice: called in this
    process after each slice is stored; on_done: as soon as a task of a model is evaluated, or found.
    """
    done: dict[tuple[int, int], Evaluation] = {}

    def finish(place: tuple[int, int], evaluation: Evaluation) -> None:
        done[place] = evaluation
        on_done(evaluation)

    waiting: dict[tuple[int, int], _Pending] = {}
    tasks: dict[int, Task] = {}
    for s, subject in enumerate(subjects):
        for t, source in enumerate(sources):
            found = find_evaluation(store, subject.name, subject.hash, subject.dtype, source)
            if found is not None:
                finish((s, t), found)
                continue
            if t not in tasks:
                told(f"reading {source.name}")
                tasks[t] = source.load()
            pending = _pending(subject, source, tasks[t], store)
            if pending.missing and not pending.error:
                waiting[s, t] = pending
            else:
                finish((s, t), _finish(pending, store))
    if waiting:
        slices = sum(len(pending.missing) for pending in waiting.values())
        told("starting Ray")
        with ray():
            told("loading the models")
            for count, (place, number, answers, answered) in enumerate(_answered(waiting, pool, store), 1):
                pending = waiting[place]
                told("answering", count / slices)
                if isinstance(answers, str):
                    pending.error = pending.error or answers
                else:
                    pending.answers[number] = answers
                    on_slice(answered)
                    if not pending.missing:
                        finish(place, _finish(pending, store))
    for place, pending in waiting.items():
        if place not in done:
            pending.error = pending.error or (
                f"{len(pending.missing)} of {len(pending.slices)} slices came back without an answer after "
                f"{RETRIES} retries: their actor died or failed; see Ray's log (out of memory?)"
            )
            finish(place, _finish(pending, store))
    return [done[s, t] for s in range(len(subjects)) for t in range(len(sources))]


def _pending(subject: Subject, source: TaskSource, task: Task, store: Store) -> _Pending:
    """A task's slices for one model, and those answers that the store has."""
    try:
        tokenizer: Any = None
        if task.measure.kind in ("window", "answer", "greedy", "gradient"):  # their requests are tokens
            with subject.folder(weights=False) as source_folder:
                tokenizer = load_tokenizer(
                    source_folder, revision=subject.revision, trust_remote_code=subject.trust_remote_code
                )
        slices = cut_slices(task.measure, task.ask(tokenizer))
    except UserError as error:
        return _Pending(subject, source, task, [], {}, str(error))
    answers = {}
    for number, part in enumerate(slices):
        key = part.key(subject.hash, subject.dtype)
        folder = store.find(_KIND, key)
        if folder is not None:
            answers[number] = load_answers((folder / _FILE).read_bytes())
    return _Pending(subject, source, task, slices, answers)


def _finish(pending: _Pending, store: Store) -> Evaluation:
    subject, source = pending.subject, pending.source
    if pending.error:
        return Evaluation(subject.name, source.name, {}, pending.task.documents, None, pending.error)
    requests = [request for part in pending.slices for request in part.requests]
    answers = [answer for number in range(len(pending.slices)) for answer in pending.answers[number]]
    scores = pending.task.score(requests, answers)
    return store_evaluation(store, subject.name, subject.hash, subject.dtype, source, scores)


def _answered(
    waiting: Mapping[tuple[int, int], _Pending], pool: Pool | None, store: Store
) -> Iterator[tuple[tuple[int, int], int, tuple[Answer, ...] | str, Answered]]:
    """Answers of all missing slices as they come, each in the store by then; or the reason why there are none."""
    calls: list[list[tuple[tuple[int, int], int]]] = []
    items = []
    for _, places in itertools.groupby(sorted(waiting), key=lambda place: place[0]):  # by model, then by task
        keys = [(place, number) for place in places for number in waiting[place].missing]
        parts = [waiting[place].slices[number] for place, number in keys]
        for call in slices_at_once(parts):
            payload = pickle.dumps((waiting[keys[call[0]][0]].subject, [parts[each] for each in call]))
            items.append({"item": len(calls), "payload": payload})
            calls.append([keys[each] for each in call])
    backward = any(pending.task.measure.kind == "gradient" for pending in waiting.values())
    shape = pool or default_pool([pending.subject for pending in waiting.values()], backward=backward)
    for row in asked_of_actors(items, Evaluator, shape, retries=RETRIES):
        for (place, number), data, error in zip(calls[row["item"]], row["answers"], row["errors"], strict=True):
            pending = waiting[place]
            seconds = row["seconds"] / len(row["answers"])
            told = Answered(pending.subject.name, pending.source.name, row["process"], row["loads"], seconds)
            if error:
                yield place, number, str(error), told
                continue
            key = pending.slices[number].key(pending.subject.hash, pending.subject.dtype)
            store.get_or_make(_KIND, key, lambda folder, data=data: _write(folder / _FILE, data))  # type: ignore[misc]
            yield place, number, load_answers(data), told


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
