"""What a command says beside its results.

Needs: nothing.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

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


COMMAND = f"{sys.executable} -m icu_ray.cli"
PLAN = "plan quickstart --json"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("where", "said"),
    [(">&-", "is closed"), (">/dev/full", "cannot be written (No space left on device)"), ("<&- >&-", "is closed")],
)
def test_output_that_cannot_be_printed_is_no_success(where: str, said: str) -> None:
    done = shell(f"{COMMAND} {PLAN} {where}")
    assert done.returncode == 2
    assert done.stderr == f"icu-ray: standard output {said}: nothing could be printed\n"


@pytest.mark.parametrize("command", [PLAN, "plan quickstart"])
def test_a_reader_that_has_left_is_no_failure(command: str) -> None:
    done = shell(f"set -o pipefail; {COMMAND} {command} | true")
    assert (done.returncode, done.stderr) == (0, "")


def test_messages_that_nobody_hears_end_nothing(tmp_path: Path) -> None:
    for where in ("2>&-", "2>/dev/full"):
        assert shell(f"{COMMAND} score {tmp_path}/none.csv {where}").returncode == 2


LOST = """
import sys, time
from pathlib import Path
from icu_ray.console.exit_codes import exit_code
from icu_ray.console.redirect import redirected_output
from icu_ray.console.terminal import rich_console

def run():
    with redirected_output(Path(sys.argv[1])) as terminal:
        console = rich_console(terminal)
        for line in range(20):
            console.print(f"line {line}")
            print(f"logged {line}", flush=True)
            time.sleep(0.01)
    print("behind", file=sys.stderr)
    return 1

sys.exit(exit_code("test", run))
"""


@pytest.mark.parametrize("where", ["| head -1", ">&-", ">/dev/full", "2>&1 | head -1", ">&- 2>&- <&-"])
def test_a_sweep_outlives_its_terminal(tmp_path: Path, where: str) -> None:
    log = tmp_path / "driver.log"
    done = shell(f"set -o pipefail; {sys.executable} -c '{LOST}' {log} {where}")
    assert done.returncode == 1
    assert log.read_text().splitlines() == [f"logged {line}" for line in range(20)]
    if "head" in where:
        assert done.stdout == "line 0\n"


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
