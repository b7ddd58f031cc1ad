"""Interruptions that come at a bad moment: in a callback, in logging, between the forks of a starting Ray.

Needs: nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from icu_ray.console.interrupts import heard

WAIT_SECONDS = 60.0
NUMBER = signal.SIGUSR1
KEYBOARD = """
import os, signal, time
from icu_ray.console.interrupts import keyboard_interrupts

class Interrupting:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with keyboard_interrupts():
        one = Interrupting()
        del one
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
signal.signal(signal.SIGINT, signal.SIG_IGN)
with keyboard_interrupts():
    os.kill(os.getpid(), signal.SIGINT)
print("not heard where it is ignored")
"""


def stop(number: int) -> None:
    raise KeyboardInterrupt


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


def test_what_is_raised_in_a_callback_is_not_lost() -> None:
    with heard([NUMBER], stop), pytest.raises(KeyboardInterrupt):  # noqa: PT012 - wherever it comes
        one = _Interrupting(NUMBER)
        del one
        time.sleep(WAIT_SECONDS)


def test_what_is_lost_is_told_and_other_errors_in_callbacks_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told, others = [], []
    monkeypatch.setattr("sys.unraisablehook", others.append)

    class Failing:
        def __del__(self) -> None:
            raise ValueError

    with heard([NUMBER], stop, lambda: told.append("lost")):
        one = Failing()
        del one
        assert [type(each.exc_value) for each in others] == [ValueError] and told == []
        other = _Interrupting(NUMBER)
        del other
        assert interrupted() and told == ["lost"] and len(others) == 1


def test_one_that_comes_while_a_lost_one_is_told_is_not_lost() -> None:
    """On a busy machine the signal may be sent again before Python has come back from the callback."""
    told: list[int] = []

    def lost() -> None:
        told.append(1)
        os.kill(os.getpid(), NUMBER)

    with heard([NUMBER], stop, lost):
        one = _Interrupting(NUMBER)
        del one
        assert interrupted() and told == [1]


def test_logging_is_left_to_free_its_lock() -> None:
    """A function of logging's own globals stands for those that take the lock of all loggers: it runs to its end."""
    logging_s = {"__name__": "logging", "kill": os.kill, "here": os.getpid(), "number": NUMBER}
    exec("def take_and_free():\n    kill(here, number)\n    return 'freed'\n", logging_s)
    with heard([NUMBER], stop):
        assert logging_s["take_and_free"]() == "freed"  # type: ignore[operator]
        assert interrupted()


def test_logging_that_hangs_is_interrupted_too() -> None:
    logging_s = {"__name__": "logging", "sleep": time.sleep, "seconds": WAIT_SECONDS}
    exec("def write():\n    sleep(seconds)\n", logging_s)
    with heard([NUMBER], stop), pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes in the second
        threading.Timer(0.2, os.kill, (os.getpid(), NUMBER)).start()
        logging_s["write"]()  # type: ignore[operator]


def test_between_forks_none_is_lost_and_every_thread_can_log() -> None:
    """A program that is started with a function to call in the child calls what Python registers around forks."""
    with heard([NUMBER], stop):
        for turn in range(60):
            until = time.monotonic() + WAIT_SECONDS
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it comes in any of these
                threading.Timer(0.0005 + turn * 0.0002, os.kill, (os.getpid(), NUMBER)).start()
                while time.monotonic() < until:
                    subprocess.run(["true"], preexec_fn=lambda: None, check=True)  # noqa: PLW1509 - as Ray does
            thread = threading.Thread(target=lambda: logging.getLogger("after").debug("a word"), daemon=True)
            thread.start()
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), f"turn {turn}: the lock of all loggers is held"


def test_ctrl_c_is_not_lost_either() -> None:
    ran = subprocess.run([sys.executable, "-c", KEYBOARD], capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout == "interrupted True\nnot heard where it is ignored\n", ran.stderr
