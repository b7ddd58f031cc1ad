"""The actors of the stage: what holds a model and answers slices, how many of them there are, and what they take.

An actor holds one model, and gives it up for another only when it is handed slices of that one.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icu_ray.data.actor_pool import Pool
from icu_ray.errors import UserError
from icu_ray.evaluation.model_requests import Slice, dump_answers
from icu_ray.models.subjects import Subject, load_subject, weight_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from icu_ray.evaluation.kinds.known_answers import SureTokens
    from icu_ray.models.loading import LoadedModel

GPU_SHARES = 8
"""At most this many actors on one GPU."""
_GPU_OVERHEAD = 2**31
"""Bytes of a GPU that an actor needs besides its weights: context, activations, scores of a chunk of positions."""

_BACKWARD = 3
"""Weights, their gradients, and what the backward of one row keeps, in sizes of the weights."""


@dataclass(frozen=True)
class Answered:
    """What is told of a slice when it is done: on which process, after how many loads of a model there, how long."""

    subject: str
    task: str
    process: int
    loads: int
    seconds: float


class Evaluator:
    """An actor with one model at a time; a call takes one item, slices that are measured alike, and gives one row."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.loads = 0
        self.loaded: tuple[Subject, LoadedModel] | None = None
        self.sure: SureTokens = {}

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        rows = [self._row(item["item"], item["payload"]) for item in batch.to_pylist()]
        schema = pa.schema(
            [
                ("item", pa.int64()),
                ("answers", pa.list_(pa.binary())),
                ("errors", pa.list_(pa.string())),
                ("process", pa.int64()),
                ("loads", pa.int64()),
                ("seconds", pa.float64()),
            ]
        )
        return pa.Table.from_pylist(rows, schema=schema)

    def _row(self, item: int, payload: bytes) -> dict[str, Any]:
        started = time.perf_counter()
        subject, parts = pickle.loads(payload)
        answers, error = self._answers(subject, parts)
        found = [(each, error) for each in answers]
        if error and len(parts) > 1:  # of which slice it is shows when each is asked alone
            alone = [self._answers(subject, [part]) for part in parts]
            found = [(one[0], error) for one, error in alone]
        seconds = time.perf_counter() - started
        return {
            "item": item,
            "answers": [one for one, _ in found],
            "errors": [error for _, error in found],
            "process": os.getpid(),
            "loads": self.loads,
            "seconds": seconds,
        }

    def _answers(self, subject: Subject, parts: Sequence[Slice]) -> tuple[list[bytes], str]:
        """The answers to slices that are measured alike, or why there are none."""
        from icu_ray.evaluation.stage.answers import answer_slices

        try:
            found = answer_slices(self._model(subject), parts, self.sure)
        except UserError as refused:
            error = str(refused)
        except (RuntimeError, MemoryError) as failed:  # torch's errors, out of memory among them: of this model alone
            error = f"{type(failed).__name__}: {failed}".splitlines()[0]
        else:
            return [dump_answers(answers) for answers in found], ""
        return [b""] * len(parts), error

    def _model(self, subject: Subject) -> LoadedModel:
        if self.loaded is None or self.loaded[0] != subject:
            self.loaded, self.sure = None, {}  # the old one's memory goes before the new one comes
            self.loads += 1
            self.loaded = (subject, load_subject(subject))
        return self.loaded[1]


def default_pool(
    subjects: Sequence[Subject], resources: Mapping[str, float] | None = None, *, backward: bool = False
) -> Pool:
    """On GPUs where there are any, as many actors on each as the largest model leaves room for; else one actor a CPU,
    as far as all their models fit half of the memory. resources: what may be taken; default: the whole cluster's.
    backward: whether gradients, which are as large as the weights, and what a row's backward keeps need room too."""
    import ray

    if resources is None:
        resources = ray.cluster_resources()
    largest = max((weight_bytes(subject) for subject in subjects), default=0) * (_BACKWARD if backward else 1)
    gpus = int(resources.get("GPU", 0))
    if gpus:
        share = gpu_share(largest, _gpu_bytes())
        return Pool(int(gpus / share), 1, share)
    room = resources.get("memory", 0) / 2 // max(1, largest)
    return Pool(int(max(1, min(resources.get("CPU", 1), room))))


def gpu_share(weights: int, total: int) -> float:
    """1/n of a GPU with `total` bytes for the largest n of 1..GPU_SHARES whose share holds `weights` bytes and what
    goes with them."""
    fitting = [n for n in range(1, GPU_SHARES + 1) if total / n >= 1.2 * weights + _GPU_OVERHEAD]
    return 1 / max(fitting, default=1)


def _gpu_bytes() -> int:
    """Memory of a GPU of the cluster, asked on the node that has one."""
    import ray

    def total() -> int:
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0

    return int(ray.get(ray.remote(num_cpus=0, num_gpus=0.01)(total).remote()))
