"""Storage that is full, read-only or away for a while: what was to be written is kept in hand and tried again.

patiently(lambda: write_events(paths, history), "events.jsonl")
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

PATIENCE_VARIABLE = "ICU_RAY_STORAGE_PATIENCE_S"
PATIENCE_SECONDS = 1800.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_MAY_PASS = {
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


def patiently(write: Callable[[], _T], what: str) -> _T:
    """The result of `write`, tried again with growing pauses while storage refuses in a way that may pass.

    After $ICU_RAY_STORAGE_PATIENCE_S (default half an hour) what it raises is raised.
    """
    until = time.monotonic() + float(os.environ.get(PATIENCE_VARIABLE, PATIENCE_SECONDS))
    wait = _FIRST_WAIT
    while True:
        try:
            return write()
        except OSError as error:
            left = until - time.monotonic()
            if error.errno not in _MAY_PASS or left <= 0:
                raise
            wait = min(wait, left)
            log.warning(
                "%s cannot be written (%s); trying again in %.0f s", *map(without_secrets, (what, str(error))), wait
            )
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)
