"""The stage: attacks x models through a pool of Ray Data actors, into the store.

    for done in audit_models(jobs, store, lambda: ActorShape(2, 1, 0)): done.job, done.result, done.error

A result goes to the store as soon as it is there, under the hash of model, attack, rows and the models it compares
with: what is there is not asked again, by nobody. An attack that cannot be run on a model, or fails there, fails alone.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from icu_ray.audit.attack import Target
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.jobs import AuditJob, material_of
from icu_ray.data.embedding import quiet_ray_data
from icu_ray.errors import UserError
from icu_ray.models.subjects import Subject, load_subject
from icu_ray.storage.results import finite
from icu_ray.storage.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from icu_ray.models.loading import LoadedModel

_KIND, _FILE = "audits", "result.json"
RETRIES = 2
"""Times an attack is begun again after the death of its actor."""


@dataclass(frozen=True)
class AuditDone:
    """job: its number. result: None with an error, the reason."""

    job: int
    result: AttackResult | None
    error: str = ""


class ActorShape(NamedTuple):
    """actors: at most so many. cpus, gpus: of each, and its threads."""

    actors: int
    cpus: float
    gpus: float


def audit_models(
    jobs: Sequence[AuditJob],
    store: Store,
    shape: Callable[[], ActorShape],
    *,
    ray: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[AuditDone]:
    """The results of all jobs as they come, those that the store has first; each job once.

    ray: entered only when something must be computed; shape is asked inside it.
    """
    missing: list[int] = []
    for number, job in enumerate(jobs):
        found = _stored(store, job)
        if found is None:
            missing.append(number)
        else:
            yield AuditDone(number, found)
    if not missing:
        return
    with ray():
        answered = set()
        for done in _attacked(jobs, missing, store, shape()):
            answered.add(done.job)
            yield done
        for number in missing:
            if number not in answered:
                yield AuditDone(
                    number,
                    None,
                    f"its actor died or failed, also after {RETRIES} retries, which Ray's log tells (out of memory?)",
                )


def _stored(store: Store, job: AuditJob) -> AttackResult | None:
    folder = store.find(_KIND, job.key())
    return None if folder is None else _read((folder / _FILE).read_bytes())


def _read(data: bytes) -> AttackResult:
    return AttackResult.from_json(json.loads(data))


def _attacked(jobs: Sequence[AuditJob], missing: Sequence[int], store: Store, shape: ActorShape) -> Iterator[AuditDone]:
    import ray

    items = [{"item": number, "payload": pickle.dumps(jobs[number])} for number in missing]
    actors = max(1, min(shape.actors, len(items)))
    with quiet_ray_data():
        # An attack that is given up takes none of the others with it; it is missed at the end.
        ray.data.DataContext.get_current().max_errored_blocks = -1
        answered = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Attacker,
            fn_constructor_args=(max(1, int(shape.cpus)),),
            batch_size=1,
            batch_format="pyarrow",
            # One at a time: a job that waited in an actor would die with the one in hand, and use up its retries.
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=shape.cpus,
            num_gpus=shape.gpus or None,
            max_task_retries=RETRIES,
        )
        for block in answered.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in block.to_pylist():
                number, data = row["item"], row["result"]
                if row["error"]:
                    yield AuditDone(number, None, str(row["error"]))
                    continue
                store.get_or_make(_KIND, jobs[number].key(), lambda folder, data=data: _write(folder / _FILE, data))  # type: ignore[misc]
                yield AuditDone(number, _read(data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


class Attacker:
    """An actor with one model at a time; a call takes one job and gives one result."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.loaded: tuple[Subject, LoadedModel] | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = [self._row(item["item"], item["payload"]) for item in batch.to_pylist()]
        schema = pa.schema([("item", pa.int64()), ("result", pa.binary()), ("error", pa.string())])
        return pa.Table.from_pylist(rows, schema=schema)

    def _row(self, item: int, payload: bytes) -> dict[str, Any]:
        job: AuditJob = pickle.loads(payload)
        result, error = b"", ""
        try:
            loaded = self._model(job.subject)
            with material_of(job, loaded.tokenizer) as material:
                found = job.attack.run(Target(loaded, material))
            result = json.dumps(finite(found.as_json())).encode("ascii")
        except UserError as refused:
            error = str(refused)
        except (RuntimeError, MemoryError) as failed:  # torch's errors, out of memory among them: of this model alone
            error = f"{type(failed).__name__}: {failed}".splitlines()[0]
        finally:
            if job.attack.changes_weights:
                self.loaded = None
        return {"item": item, "result": result, "error": error}

    def _model(self, subject: Subject) -> LoadedModel:
        if self.loaded is None or self.loaded[0] != subject:
            self.loaded = None  # the old one's memory goes before the new one comes
            self.loaded = (subject, load_subject(subject))
        return self.loaded[1]
