"""A driver hears what asks it to end, and is not ended by a terminal that says so twice.

Needs: nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from icu_ray.sweep.driver import interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_interrupts(number: signal.Signals) -> None:
    interrupted, told = threading.Event(), threading.Event()
    before = signal.getsignal(number)

    def driven() -> None:
        with interruptions(interrupted, told.set):
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        driven()
    assert interrupted.is_set() and signal.getsignal(number) is before
    with interruptions(interrupted, told.set):
        os.kill(os.getpid(), signal.SIGHUP)  # the shell's, after the terminal's own
        time.sleep(0.1)
    assert not told.is_set()


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupted = threading.Event()
    try:
        with interruptions(interrupted, lambda: None):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not interrupted.is_set()
