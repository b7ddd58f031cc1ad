"""Signals that end what runs, heard where an exception can be raised.

with heard([signal.SIGTERM], stop): ...     # stop(signal.SIGTERM), which may raise KeyboardInterrupt

Python calls a signal's handler between any two instructions of the main thread. What it raises is lost in callbacks,
such as those of a fork or of a garbage collection. In logging it may leave the lock held that all loggers share, and
whoever logs next waits for ever. Both at once happened to Ctrl-C while Ray started its processes: logging takes its
lock before each fork and frees it in a callback after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from queue import SimpleQueue
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.05
"""After which a signal that came at a wrong moment is sent again."""
TRIES = 40
"""So often it waits for logging, which may hang itself: what it writes to may be away."""


@contextlib.contextmanager
def heard(
    numbers: Collection[int], stop: Callable[[int], None], lost: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Have `stop` called with the number of each of these signals, in the main thread, where the block must be.

    lost: called when a KeyboardInterrupt of `stop` came to nothing, before the signal is sent again.
    """
    again: SimpleQueue[int] = SimpleQueue()  # the one queue that may be written wherever a handler is called
    last = late = 0
    waiting = False  # to be sent again: once, whoever asks for it meanwhile

    def send_again(number: int) -> None:
        nonlocal waiting
        if not waiting:
            waiting = True
            again.put(number)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal last, late, waiting
        last, waiting = number, False
        in_logging = frame is not None and frame.f_globals.get("__name__") == "logging"
        if late < TRIES and (in_logging or _within(frame, unraisable)):
            late += 1
            send_again(number)
        else:
            late = 0
            stop(number)

    def unraisable(what: Any) -> None:
        if last and isinstance(what.exc_value, KeyboardInterrupt):
            lost()
            send_again(last)
        else:
            hook(what)

    def send() -> None:
        while number := again.get():
            time.sleep(AGAIN_SECONDS)
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send, name="signals", daemon=True)
    sender.start()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        again.put(0)


def _within(frame: FrameType | None, function: Any) -> bool:
    """Whether this is a frame of the function, or of what it calls."""
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as Python has it raise, and is never lost; elsewhere than in the main thread, or
    where something else hears it already, nothing is changed. Not for code that runs an asyncio loop, which ends its
    tasks in peace only where Python's own handler is there."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with heard([signal.SIGINT], stop):
        yield
