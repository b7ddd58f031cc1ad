"""What a command says beside its results."""

from __future__ import annotations

import os

import pytest

from icu_ray.cli import main
from icu_ray.verbosity import VARIABLE, chosen, teller, verbosity


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
