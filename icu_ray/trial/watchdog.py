"""Looks after a worker group from a thread, and ends one that has stopped getting anywhere: a lost collective, a dead
file system, a GPU that hangs.

with Watchdog(lambda: sign_of_progress(paths), minutes=30, end=free_placement_group) as watchdog:
    watchdog.started("placement group")       # whenever workers have (re)started
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.5


@contextlib.contextmanager
def looking(look: Callable[[], None], name: str) -> Iterator[None]:
    """Call `look` again and again during the block, from a thread of that name."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            look()

    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


class Watchdog:
    """Calls `end` with the group's name when `sign` has said the same for `minutes` since it or the group last changed.

    minutes: None: watches nothing. ended: how often a group was ended.

    While `sign` raises OSError storage is away: nobody could tell of progress then, so that time does not count.
    """

    def __init__(self, sign: Callable[[], object], minutes: float | None, end: Callable[[str], None]) -> None:
        self._sign, self._seconds, self._end = sign, None if minutes is None else 60 * minutes, end
        self.ended = 0
        self._group: str | None = None
        self._since = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def hung(self) -> bool:
        """Whether the last group of workers was ended here."""
        return self.ended > 0 and self._group is None

    def started(self, group: str) -> None:
        """The workers of this placement group have started."""
        self._group, self._since = group, time.monotonic()

    def __enter__(self) -> Watchdog:
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _watch(self) -> None:
        assert self._seconds is not None
        last: object = None
        while not self._stop.wait(min(5.0, self._seconds / 4)):
            try:
                now = self._sign()
            except OSError:
                self._since = time.monotonic()
                continue
            if now != last:
                last, self._since = now, time.monotonic()
            group = self._group
            if group is not None and time.monotonic() - self._since > self._seconds:
                log.warning("no sign of progress for %.0f s: its workers are replaced", self._seconds)
                self.ended += 1
                self._group = None
                self._end(group)
