"""Interruptions that come at a bad moment: in a callback, in logging, between the forks of a starting Ray.

Needs: nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from icu_ray.console.interrupts import heard, keyboard_interrupts

WAIT_SECONDS = 60.0


def stop(number: int) -> None:
    raise KeyboardInterrupt


@pytest.fixture(params=["heard", "keyboard"])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that is heard while the test runs."""
    if request.param == "keyboard":
        with keyboard_interrupts():
            yield signal.SIGINT
    else:
        with heard([signal.SIGALRM], stop):
            yield signal.SIGALRM


def interrupted() -> bool:
    """Whether it comes."""
    try:
        time.sleep(WAIT_SECONDS)
    except KeyboardInterrupt:
        return True
    return False


class _Interrupting:
    """Interrupts this process where Python throws exceptions away."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


def test_what_is_raised_in_a_callback_is_not_lost(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - wherever it comes
        one = _Interrupting(number)
        del one
        time.sleep(WAIT_SECONDS)


def test_what_is_lost_is_told_and_other_errors_in_callbacks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told, others = [], []
    monkeypatch.setattr("sys.unraisablehook", others.append)

    class Failing:
        def __del__(self) -> None:
            raise ValueError

    with heard([signal.SIGALRM], stop, lambda: told.append("lost")):
        one = Failing()
        del one
        assert [type(each.exc_value) for each in others] == [ValueError] and told == []
        other = _Interrupting(signal.SIGALRM)
        del other
        assert interrupted() and told == ["lost"] and len(others) == 1


def test_logging_is_left_to_free_its_lock(number: signal.Signals) -> None:
    """A function of logging's own globals stands for those that take the lock of all loggers: it runs to its end."""
    logging_s = {"__name__": "logging", "kill": os.kill, "here": os.getpid(), "number": number}
    exec("def take_and_free():\n    kill(here, number)\n    return 'freed'\n", logging_s)
    assert logging_s["take_and_free"]() == "freed"  # type: ignore[operator]
    assert interrupted()


def test_logging_that_hangs_is_interrupted_too(number: signal.Signals) -> None:
    logging_s = {"__name__": "logging", "sleep": time.sleep, "seconds": WAIT_SECONDS}
    exec("def write():\n    sleep(seconds)\n", logging_s)
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    with pytest.raises(KeyboardInterrupt):
        logging_s["write"]()  # type: ignore[operator]


def test_between_forks_none_is_lost_and_every_thread_can_log() -> None:
    """A program that is started with a function to call in the child calls what Python registers around forks."""
    with heard([signal.SIGALRM], stop):
        for turn in range(60):
            until = time.monotonic() + WAIT_SECONDS
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes in any of these
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + turn * 0.0002)
                while time.monotonic() < until:
                    subprocess.run(["true"], preexec_fn=lambda: None, check=True)  # noqa: PLW1509 - as Ray does
            thread = threading.Thread(target=lambda: logging.getLogger("after").debug("a word"), daemon=True)
            thread.start()
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), f"turn {turn}: the lock of all loggers is held"
