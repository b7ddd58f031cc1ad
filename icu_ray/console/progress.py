"""Progress of long work: it reports, and its caller may listen. Where nobody listens, a report costs nothing.

    with listening(lambda stage, part: print(stage, part)):     # what this thread says inside
        for number, batch in enumerate(batches):
            told("embedding", number / len(batches))

A stage whose part falls has begun anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeAlias

Listener: TypeAlias = Callable[[str, float | None], None]
"""Told the stage, and the part of it that is done: 0..1, None where that cannot be known."""
EVERY_SECONDS = 0.5
TELL_SECONDS = 30.0
"""What is told to a file or pipe is told again after each of these."""
_listener: ContextVar[Listener | None] = ContextVar("progress", default=None)


def told(stage: str, part: float | None = None) -> None:
    """Say it to who listens."""
    hears = _listener.get()
    if hears is not None:
        hears(stage, part)


def teller_of_share(stage: str, done: int, members: int, total: int) -> Callable[[float], None]:
    """What tells the part that is done of `members` items, beside the `done` ones before them, as a part of all."""
    return lambda part: told(stage, (done + members * part) / total)


def listener() -> Listener | None:
    """Who listens in this thread: to be told of work that goes on in other threads, where nobody listens."""
    return _listener.get()


@contextlib.contextmanager
def listening(hears: Listener, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Have `hears` told of every new stage at once, and of a stage's progress when so many seconds have passed."""
    last: tuple[str, float] = "", 0.0

    def sometimes(stage: str, part: float | None) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= every:
            last = stage, now
            hears(stage, part)

    token = _listener.set(sometimes)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass(frozen=True)
class Step:
    """Progress of one piece of a sweep's shared work, such as a stand-in, the pairs or the evaluation.

    part: 0..1 of its stage, None while not known; 1 when all of the piece is done. stage: which of several, each with
    a pace of its own. event: to be told in a log at once.
    """

    name: str
    part: float | None
    text: str
    stage: str = ""
    event: bool = False


class Clock:
    """How long something will still take, from its pace so far."""

    SURE_SECONDS, SURE_PART = 2.0, 0.02
    """Before that a pace says little."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._part = self._since = self._from = self._asked = 0.0
        self._left: float | None = None

    def left(self, stage: str, part: float | None) -> float | None:
        """Seconds; None while nothing can be said. To be asked at every progress."""
        self._asked, self._left = time.monotonic(), None
        if part is None:
            self._stage = None
            return None
        if stage != self._stage or part < self._part:
            self._stage, self._since, self._from = stage, self._asked, part
        self._part = part
        gone, advanced = self._asked - self._since, part - self._from
        if gone >= self.SURE_SECONDS and advanced >= self.SURE_PART:
            self._left = gone / advanced * (1 - part)
        return self._left

    def words(self) -> str:
        """'about 2 min 10 s left', by now; '' while nothing can be said."""
        if self._left is None:
            return ""
        return f"about {duration(max(0.0, self._left - (time.monotonic() - self._asked)))} left"


def line(text: str, part: float | None, left: str) -> str:
    """'embedding, 34 %, about 2 min 10 s left'; what is not known is left out."""
    return ", ".join(filter(None, (text, "" if part is None else f"{100 * part:.0f} %", left)))


def duration(seconds: float) -> str:
    """'7 s', '3 min 20 s', '2 h 05 min'."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
