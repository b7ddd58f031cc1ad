"""Retries for storage that is full, read-only or away for a while: what was to be written is kept and tried again.

with_retries(lambda: write_events(paths, history), "events.jsonl")

Why not tenacity: what matters here is which errors may pass and how long a storage is waited for, which it would have
to be told as well. What it would save is the loop, fifteen lines, for one more package on every node.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from icu_ray.errors import without_secrets

log = logging.getLogger(__name__)
_T = TypeVar("_T")

RETRY_VARIABLE = "ICU_RAY_STORAGE_PATIENCE_S"
RETRY_SECONDS = 1800.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_TRANSIENT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
}


def with_retries(write: Callable[[], _T], what: str) -> _T:
    """The result of `write`, tried again with growing pauses while storage refuses in a way that may pass.

    After $ICU_RAY_STORAGE_PATIENCE_S (default half an hour) what it raises is raised.
    """
    until = time.monotonic() + float(os.environ.get(RETRY_VARIABLE, RETRY_SECONDS))
    wait = _FIRST_WAIT
    while True:
        try:
            return write()
        except OSError as error:
            left = until - time.monotonic()
            if error.errno not in _TRANSIENT or left <= 0:
                raise
            wait = min(wait, left)
            log.warning(
                "%s cannot be written (%s); trying again in %.0f s", *map(without_secrets, (what, str(error))), wait
            )
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)
