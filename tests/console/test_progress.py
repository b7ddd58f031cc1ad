"""How far long work is: what it tells, what follows from its pace, and what the live view makes of it.

Needs: nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from icu_ray.console import progress
from icu_ray.console.progress import Clock, Step, listener, listening, told
from icu_ray.metrics.generation import generate_candidates
from icu_ray.metrics.perplexity import total_nll
from icu_ray.metrics.probe import probe
from icu_ray.models.reference import build_reference
from icu_ray.report.terminal.live import LiveView
from tests.support.evaluation_case import save_model
from tests.support.tiny_models import PAD, tiny_model, tiny_rows
from tests.sweep.test_prepare import plan_of


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    time = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


def test_who_listens_hears_new_stages_at_once_and_the_rest_now_and_then(now: list[float]) -> None:
    told("nobody", 0.5)
    heard: list[tuple[str, float | None]] = []
    with listening(lambda stage, part: heard.append((stage, part))):
        for hundredth in range(100):  # ten seconds
            now[0] += 0.1
            told("first", hundredth / 100)
        told("second")
        other = threading.Thread(target=lambda: heard.append(("other thread", listener() and 1.0)))
        other.start()
        other.join()
    told("nobody", 0.5)
    assert heard[0] == ("first", 0.0)
    assert 100 // 6 <= sum(stage == "first" for stage, _ in heard) <= 100 // 5 + 1
    assert heard[-2:] == [("second", None), ("other thread", None)]
    assert listener() is None


@given(pace=st.floats(0.001, 0.2), seconds=st.integers(1, 30), first=st.floats(0, 0.5))
def test_an_even_pace_tells_the_time_left(pace: float, seconds: int, first: float) -> None:
    """Also where a part was there already, and for each stage anew."""
    time, clock = [0.0], Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.time, "monotonic", lambda: time[0])
        for stage, speed in (("", pace), ("two", 2 * pace)):
            parts = [min(first + speed * second, 1.0) for second in range(seconds + 1)]
            left = None
            for part in parts:
                left = clock.left(stage, part)
                time[0] += 1.0
            if parts[-1] == 1.0:
                assert left in (None, 0.0)
            elif seconds >= Clock.SURE_SECONDS and speed * seconds >= Clock.SURE_PART + 1e-9:
                assert left == pytest.approx((1 - parts[-1]) / speed)
            elif seconds < Clock.SURE_SECONDS or speed * seconds < Clock.SURE_PART - 1e-9:
                assert left is None
        assert clock.left("two", None) is None


def test_a_stage_that_begins_again_is_measured_anew(now: list[float]) -> None:
    clock = Clock()
    clock.left("reference", 0.0)
    now[0] += 100
    assert clock.left("reference", 0.5) == pytest.approx(100)
    assert clock.left("reference", 0.0) is None
    now[0] += 4
    assert clock.left("reference", 0.5) == pytest.approx(4)


def test_measurements_tell_how_far_they_are() -> None:
    model, rows = tiny_model("gpt_neo"), tiny_rows(9, 0)
    heard: list[tuple[str, float | None]] = []
    with listening(lambda stage, part: heard.append((stage, part)), every=0.0):
        probe(model, rows, el_start=6, ngram=2, chunk=4)
        generate_candidates(
            model, rows.prompt_ids, rows.prompt_mask, max_new_tokens=4, pad_id=PAD, eos_id=None, batch_size=4
        )
        total_nll(model, rows, batch_size=2)
        build_reference(model, rows, "hidden", batch_size=2)
    stages = list(dict.fromkeys(stage for stage, _ in heard))
    assert stages == ["MA and EL", "candidates", "perplexity", "reference"]
    for stage in stages:
        parts = [part for named, part in heard if named == stage]
        assert parts == sorted(parts) and parts[0] == 0 and 0.5 < parts[-1] <= 1 and len(set(parts)) > 3, stage
    # Saying so changes nothing.
    before = probe(model, rows, el_start=6, ngram=2, chunk=4)
    with listening(lambda stage, part: None):
        np.testing.assert_array_equal(probe(model, rows, el_start=6, ngram=2, chunk=4).el, before.el)


def view_of(folder: Path, terminal: bool) -> tuple[LiveView, io.StringIO]:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    return LiveView(plan_of(folder), console), written


def test_a_file_is_told_again_what_takes_long(tmp_path: Path, now: list[float]) -> None:
    view, written = view_of(tmp_path, terminal=False)
    for second in range(100):
        now[0] += 1
        view.step(Step("pairs", second / 200, "embedding", "embedding"))
    view.step(Step("stand-in", 0.0, "training"))
    now[0] += progress.TELL_SECONDS
    view.step(Step("stand-in", 0.25, "epoch 10"))
    view.step(Step("pairs", 1, "made in 100 s"))
    assert written.getvalue().splitlines() == [
        "prepare  pairs: embedding",
        "prepare  pairs: embedding, 15 %, about 2 min 50 s left",
        "prepare  pairs: embedding, 30 %, about 2 min 20 s left",
        "prepare  pairs: embedding, 45 %, about 1 min 50 s left",
        "prepare  stand-in: training",
        "prepare  stand-in: epoch 10, 25 %, about 1 min 30 s left",
        "prepare  pairs: made in 100 s",
    ]


def test_a_terminal_shows_open_steps_with_their_time_left(tmp_path: Path, now: list[float]) -> None:
    view, _ = view_of(tmp_path, terminal=True)
    view.step(Step("pairs", 0.0, "embedding", "embedding"))
    view.step(Step("data", 1, "40 rows"))
    now[0] += 10
    view.step(Step("pairs", 0.25, "embedding", "embedding"))
    now[0] += 4

    def lines() -> list[str]:
        with view.console.capture() as captured:
            view.console.print(view._render())
        return captured.get().splitlines()

    assert [line.split()[0] for line in lines()] == ["Preparing", "pairs", "0/8"]
    assert lines()[1].rstrip().endswith("embedding, about 26 s left")
    # Of the next stage nothing is known yet.
    view.step(Step("pairs", 0.0, "searching", "searching"))
    assert lines()[1].rstrip().endswith("searching")


@pytest.mark.parametrize(("left", "said"), [(None, "so far"), (100.0, "so far, about 1 min 40 s left")])
def test_the_time_left_is_what_it_is_told(tmp_path: Path, now: list[float], left: float | None, said: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None, legacy_windows=False)
    view = LiveView(plan_of(tmp_path), console, time_left=lambda: left)
    with console.capture() as captured:
        console.print(view._render())
    last = captured.get().splitlines()[-1].strip()
    assert last.startswith("0/8 trials done") and last.endswith(said)


@pytest.mark.slow
def test_a_command_shows_a_bar_on_a_terminal_alone(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    lines = [json.dumps({"text": " ".join(f"w{(7 * row + k) % 40}" for k in range(20))}) for row in range(64)]
    (tmp_path / "forget.jsonl").write_text("\n".join(lines))
    command = [sys.executable, "-m", "icu_ray.cli", "probe", "--model", str(model), "--json"]
    command += ["--forget", str(tmp_path / "forget.jsonl"), "--length", "60", "--el-start", "20"]
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how a terminal ends whose other side is closed
            while piece := os.read(ours, 65536):
                seen.append(piece)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=False)
    os.close(theirs)
    reader.join(timeout=60)
    os.close(ours)
    assert shown.returncode == 0, seen
    assert re.search(rb"MA and EL .* +\d+ %", b"".join(seen))
    plain = subprocess.run(command, capture_output=True, check=True)
    assert plain.stderr == b""
    assert json.loads(shown.stdout) == json.loads(plain.stdout)
