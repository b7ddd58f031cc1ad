"""What a command says beside its results.

Needs: nothing.
"""

from __future__ import annotations

import io
import os
import sys

import pytest

from icu_ray.cli.main import main
from icu_ray.console import progress
from icu_ray.console.verbosity import VARIABLE, bar, chosen, teller, verbosity


@pytest.mark.parametrize(
    ("level", "everywhere", "on_terminals"), [("quiet", "", ""), (None, "a", ""), ("verbose", "a", "a")]
)
def test_lines_in_a_pipe(
    level: str | None, everywhere: str, on_terminals: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with chosen(level):  # type: ignore[arg-type]
        for terminal_only, said in ((False, everywhere), (True, on_terminals)):
            teller(terminal_only)("a")
            assert capsys.readouterr().err.strip() == said
    assert VARIABLE not in os.environ


def test_the_variable_holds_unless_an_option_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "quiet")
    assert verbosity() == "quiet"
    with chosen("verbose"):
        assert verbosity() == "verbose"
    assert verbosity() == "quiet"


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(VARIABLE, "loud")
    assert main(["score", "none.csv"]) == 2
    assert "expected quiet, normal or verbose, found 'loud'" in capsys.readouterr().err


def test_progress_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where much is asked for, and not too often; an error stream that is none hurts nobody."""
    time, written = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    monkeypatch.setattr(sys, "stderr", written)
    for level in ("quiet", "normal", "verbose"):
        with chosen(level), bar():  # type: ignore[arg-type]
            progress.told("loading the model")
            for step in range(0, 100, 4):
                time[0] += 4
                progress.told("answering", step / 100)
        assert (written.getvalue() == "") == (level != "verbose")
    assert written.getvalue().splitlines() == [
        "loading the model",
        "answering, 0 %",
        "answering, 32 %, about 1 min 08 s left",
        "answering, 64 %, about 36 s left",
        "answering, 96 %, about 4 s left",
    ]
    monkeypatch.setattr(sys, "stderr", None)
    for level in ("quiet", "verbose"):
        with chosen(level), bar():  # type: ignore[arg-type]
            progress.told("answering", 0.5)
