"""What a trial does when memory does not suffice: it goes on with half the micro batch, once.

halve_micro_batch(paths, settings, world_size, error)   # on the worker that ran out; then raise, and be started anew
"""

from __future__ import annotations

import json

from icu_ray.errors import without_secrets
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.storage.files import read_bytes, write_atomic
from icu_ray.storage.results import to_json
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.storage.values import OF_TRIAL

_SAID_BY_TORCH = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


class MemoryExhausted(Exception):
    """A trial ran out of memory with the halved micro batch, too; no RuntimeError, for it would happen again."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory of the GPU or of the machine did not suffice."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in _SAID_BY_TORCH)


def read_micro_batch(paths: TrialPaths) -> int | None:
    """The micro batch that a trial was left with after it ran out of memory; a damaged file, or one of another trial,
    says nothing, and is written anew where that happens again."""
    content = read_bytes(paths.micro_batch)
    try:
        found = json.loads(content or b"{}")
        return int(found["micro_batch"]) if found.get(OF_TRIAL, paths.trial_id) == paths.trial_id else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def halve_micro_batch(paths: TrialPaths, settings: TrialSettings, world_size: int, error: BaseException) -> None:
    """Have the trial's next start use half the micro batch, and so twice the accumulation; raises MemoryExhausted where
    it has done so before or nothing can be halved."""
    per_rank = -(-settings.batch_size // world_size)
    micro = min(settings.micro_batch or per_rank, per_rank)
    known = read_micro_batch(paths)
    if known is not None and known < micro:
        return  # another rank has said so
    if known is not None or micro < 2:
        raise MemoryExhausted(f"out of memory with micro_batch={micro}: {error}") from error
    said = without_secrets(str(error))[:500]
    halved = {OF_TRIAL: paths.trial_id, "micro_batch": micro // 2, "was": micro, "error": said}
    write_atomic(paths.micro_batch, to_json(halved))
