"""Telling while working: a function that reports by calling becomes one that yields, as Ray's streaming tasks want it.

yield from streamed(lambda tell: long_work(on_progress=tell))
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


class _End:
    pass


def streamed(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """What `work` tells, as it tells it, from a thread of its own; raises what it raises."""
    told: queue.Queue[Any] = queue.Queue()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work(told.put)
        except BaseException as error:
            failed.append(error)
        told.put(_End)

    threading.Thread(target=run, name="streamed", daemon=True).start()
    while (item := told.get()) is not _End:
        yield item
    if failed:
        raise failed[0]
