"""A driver hears what asks it to end, and is not ended by a terminal that says so twice.

Needs: nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from icu_ray.console.progress import Step
from icu_ray.storage.results import Beat
from icu_ray.storage.trial_files import read_beat
from icu_ray.sweep import driver
from icu_ray.sweep.driver import heartbeat, interruptions, logging_to
from icu_ray.sweep.lease import take


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


def test_the_beat_tells_the_steps_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "STEP_SECONDS", 0.02)
    monkeypatch.setattr(driver, "BEAT_SECONDS", 60.0)  # what is told is written before the next beat is due
    lease = take(str(tmp_path), "s")

    def told(*lines: str) -> Beat:
        deadline = time.monotonic() + 50
        while (beat := read_beat(str(tmp_path), "s")) is None or beat.under_way != lines:
            assert time.monotonic() < deadline, beat
            time.sleep(0.01)
        return beat

    with heartbeat(str(tmp_path), "s", lease, threading.Event()) as tell:
        told()
        tell(Step("stand-in small", 0.31, "epoch 4"))
        tell(Step("pairs", None, "waiting for a CPU"))
        assert told("stand-in small: epoch 4, 31 %", "pairs: waiting for a CPU").state == "running"
        tell(Step("stand-in small", 1, "made in 30 s"))
        told("pairs: waiting for a CPU")
        began = time.monotonic()
    assert time.monotonic() - began < 50  # nor does the end wait for a beat
    lease.release()


def test_the_log_holds_what_the_sweep_did_and_not_what_libraries_list(tmp_path: Path) -> None:
    fonts, tune = logging.getLogger("fontTools.subset"), logging.getLogger("ray.tune.analysis.experiment_analysis")
    levels = fonts.getEffectiveLevel(), tune.getEffectiveLevel()
    with logging_to(tmp_path / "driver.log"):
        logging.getLogger("icu_ray.sweep.prepare").info("made: pairs a5452d0bc32a")
        fonts.info("Glyph names: %s", [".notdef", "e"])
        tune.warning("Failed to fetch metrics for 1 trial(s):\n- trial_x: FileNotFoundError('no result.json')")
        fonts.warning("a font is damaged")
    said = [line.split(maxsplit=2)[2] for line in (tmp_path / "driver.log").read_text().splitlines()]
    assert said == ["icu_ray.sweep.prepare made: pairs a5452d0bc32a", "fontTools.subset a font is damaged"]
    assert levels == (fonts.getEffectiveLevel(), tune.getEffectiveLevel())
