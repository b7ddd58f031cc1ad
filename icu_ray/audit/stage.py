"""The stage: attacks x models through a pool of Ray Data actors, into the store.

    for done in audit_models(jobs, store, lambda: Pool(2)): done.job, done.result, done.error

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
from typing import TYPE_CHECKING, Any

from icu_ray.audit.attack import Target
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.jobs import AuditJob, material_of
from icu_ray.data.actor_pool import Pool, asked_of_actors
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


def audit_models(
    jobs: Sequence[AuditJob],
    store: Store,
    pool: Callable[[], Pool],
    *,
    ray: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[AuditDone]:
    """The results of all jobs as they come, those that the store has first; each job once.

    ray: entered only when something must be computed; pool is asked inside it.
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
        for done in _attacked(jobs, missing, store, pool()):
            answered.add(done.job)
            yield done
        for number in missing:
            if number not in answered:
                yield AuditDone(
                    number,
                    None,
                    f"its actor died or failed, also after {RETRIES} retries; see Ray's log (out of memory?)",
                )


def _stored(store: Store, job: AuditJob) -> AttackResult | None:
    folder = store.find(_KIND, job.key())
    return None if folder is None else _read((folder / _FILE).read_bytes())


def _read(data: bytes) -> AttackResult:
    return AttackResult.from_json(json.loads(data))


def _attacked(jobs: Sequence[AuditJob], missing: Sequence[int], store: Store, pool: Pool) -> Iterator[AuditDone]:
    items = [{"item": number, "payload": pickle.dumps(jobs[number])} for number in missing]
    for row in asked_of_actors(items, Attacker, pool, retries=RETRIES):
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
