"""What makes a process the driver of a sweep: it holds the sweep's lease, says that it lives, hears signals.

lease = claim(storage, sweep, wait=False, say=print)
with message_if_killed("...", terminal) as cancel, interruptions(interrupted, cancel):
    with heartbeat(storage, sweep, lease, taken_over) as tell: ...
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console

from icu_ray.console.interrupts import heard
from icu_ray.console.progress import Step, line
from icu_ray.errors import UserError, without_secrets
from icu_ray.storage.files import join, local_path
from icu_ray.storage.results import BEAT_SECONDS, SILENT_SECONDS
from icu_ray.storage.trial_files import write_beat
from icu_ray.sweep.lease import Held, Lease, take

log = logging.getLogger(__name__)
WAIT_SECONDS = 2.0
STEP_SECONDS = 5.0
"""A step of the shared work is told in storage no more often than this."""
_SILENT = {
    "fontTools": logging.WARNING,  # lists every glyph of a figure's letters
    "ray.tune.analysis.experiment_analysis": logging.ERROR,  # misses files of Tune's own that no trial here writes
}
"""Loggers that would bury the driver's log, and from which level on they are heard."""
_MESSAGE_IF_KILLED = r"""
read -r cancelled
[ -t 1 ] && printf '\033[?25h'
[ "$cancelled" ] || printf '\n%s\n' "$1"
"""
"""Waits for a line or the pipe's end; a terminal gets its cursor back, which the live view had hidden."""


def claim(storage: str, sweep: str, wait: bool, say: Callable[[str], None]) -> Lease:
    """The sweep's lease. UserError where another driver has it, unless `wait`: then once that has ended."""
    said = False
    while True:
        try:
            return take(storage, sweep)
        except Held as held:
            folder = join(storage, sweep)
            where = without_secrets(folder) if local_path(folder) is None else shown(Path(folder))
            if not wait:
                raise UserError(
                    f"{where}: another driver ({held}) is running this sweep; watch it: icu-ray status {where} "
                    "--follow; start when it has ended: --wait; or give this one another name (name=...). A driver on "
                    f"another machine that has not been heard of for {SILENT_SECONDS:.0f} s is considered dead"
                ) from None
            if not said:
                say(f"waiting for another driver ({held}) of this sweep to end")
                said = True
        time.sleep(WAIT_SECONDS)


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def require_main_thread() -> None:
    """UserError elsewhere: a driver hears interruptions, and Python gives those to the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        raise UserError("a sweep listens for interruptions, which only a process's main thread hears: run it there")


@contextlib.contextmanager
def message_if_killed(message: str, file: TextIO) -> Iterator[Callable[[], None]]:
    """Have `message` written to `file` should this process end within the block at once; yields what calls that off.

    kill -9 does that, and so does Ray, whose own code ends a driver on the spot and without a word where the object
    store beside it has died, or where a new head answers at the old address. So another process writes it, which waits
    for this one's end of a pipe to close.
    """
    try:
        waiting = subprocess.Popen(
            ["/bin/sh", "-c", _MESSAGE_IF_KILLED, "message-if-killed", message],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    except OSError:  # no process to be had: nothing that a sweep should end for
        log.warning("nothing will be said should this process be killed", exc_info=True)
        yield lambda: None
        return
    pipe = waiting.stdin
    assert pipe is not None

    def cancel() -> None:
        with contextlib.suppress(OSError):
            os.write(pipe.fileno(), b"cancel\n")

    try:
        yield cancel
    finally:
        cancel()
        with contextlib.suppress(OSError):
            pipe.close()
        waiting.wait()


@contextlib.contextmanager
def interruptions(interrupted: threading.Event, before_exit: Callable[[], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP set `interrupted` and raise KeyboardInterrupt; a second calls `before_exit` and ends.

    A terminal that is closed may say SIGHUP more than once, by itself and by its shell: the second one ends nothing.
    Under nohup it is not heard.
    """

    def stop(number: int) -> None:
        if interrupted.is_set() and number == signal.SIGHUP:
            return
        if interrupted.is_set():
            before_exit()
            os._exit(130)
        interrupted.set()
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    with heard(numbers, stop, interrupted.clear):
        yield


class _UnderWay:
    """The steps of a sweep's shared work that have not ended, as they were told last."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        self._steps: dict[str, Step] = {}
        self._lock = threading.Lock()

    def tell(self, step: Step) -> None:
        with self._lock:
            if step.part == 1:
                self._steps.pop(step.name, None)
            else:
                self._steps[step.name] = step
        self.changed.set()

    def lines(self) -> list[str]:
        with self._lock:
            return [f"{step.name}: {line(step.text, step.part or None, '')}" for step in self._steps.values()]


@contextlib.contextmanager
def heartbeat(storage: str, sweep: str, lease: Lease, taken_over: threading.Event) -> Iterator[Callable[[Step], None]]:
    """Say every while that this driver lives; if another has taken the sweep over, set `taken_over` and interrupt.

    Yields what takes the steps of the shared work, so that `icu-ray status` can tell them from any other machine.
    """
    stop, under_way = threading.Event(), _UnderWay()

    def beat() -> None:
        while not stop.is_set():
            under_way.changed.clear()
            try:
                lease.renew()
                if not stop.is_set():
                    write_beat(storage, sweep, "running", under_way.lines())
            except Held as held:
                log.warning("another driver (%s) has taken this sweep over", held)
                taken_over.set()
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except Exception as error:  # storage is away, in whatever words its library has for that
                log.warning("the driver's beat: %s: %s", type(error).__name__, without_secrets(str(error)))
            if not stop.wait(STEP_SECONDS):
                under_way.changed.wait(BEAT_SECONDS - STEP_SECONDS)

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield under_way.tell
    finally:
        stop.set()
        under_way.changed.set()
        thread.join(timeout=5)


@contextlib.contextmanager
def logging_to(file: Path, console: Console | None = None) -> Iterator[None]:
    """What this process logs goes to `file`, and to a console by rich's handler; before and after, as it was."""
    handlers: list[logging.Handler] = [logging.FileHandler(file, encoding="utf-8")]
    handlers[0].setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    if console is not None:
        from rich.logging import RichHandler

        handlers.append(RichHandler(console=console, show_path=False, markup=False))
        handlers[1].setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    before, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", *_SILENT)}
    root.handlers[:] = handlers
    root.setLevel(logging.INFO)
    for name, level in _SILENT.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        root.handlers[:] = before
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for handler in handlers:
            handler.close()
