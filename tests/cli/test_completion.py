"""The Tab key, pressed in a real bash that has read `icu-ray completion bash`.

Needs: a bash.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from icu_ray.cli.main import main

COMPLETE = """
source {script}
COMP_WORDS=({words} {last})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE={line}
COMP_POINT=${{#COMP_LINE}}
$(complete -p icu-ray | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "icu-ray.bash"
    with path.open("w") as file, contextlib.redirect_stdout(file):
        assert main(["completion", "bash"]) == 0
    return path


@pytest.fixture
def press(script: Path, tmp_path: Path) -> Callable[[str], set[str]]:
    """What bash offers after these words, in a folder with one config, one folder and one file of texts."""
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "texts.jsonl").touch()

    def tab(line: str) -> set[str]:
        words, _, last = line.rpartition(" ")
        code = COMPLETE.format(
            script=shlex.quote(str(script)), words=words, last=shlex.quote(last), line=shlex.quote(line)
        )
        bash = shutil.which("bash")
        assert bash is not None
        done = subprocess.run([bash, "--norc", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        # compopt has no meaning outside of a keyboard, and says so.
        assert all("compopt" in line for line in done.stderr.splitlines()), done.stderr
        return set(done.stdout.split())

    return tab


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("icu-ray ", {"sweep", "unlearn", "probe", "status", "completion", "doctor"}, {"--version", "fetch"}),
        ("icu-ray s", {"sweep", "submit", "status", "score", "sync"}, {"probe"}),
        ("icu-ray data ", {"fetch", "mirror", "check"}, {"sweep"}),
        ("icu-ray probe --", {"--model", "--forget", "--el-start", "--json"}, {"--retain"}),
        ("icu-ray unlearn --b", {"--beta"}, {"--alpha"}),
        ("icu-ray unlearn --precision ", {"fp32", "bf16"}, {"texts.jsonl"}),
        ("icu-ray sweep ", {"quickstart", "table1", "paper", "mine.yaml", "runs"}, {"texts.jsonl"}),
        ("icu-ray plan table", {"table1", "table3", "table4_small"}, {"paper", "mine.yaml"}),
        ("icu-ray data check m", {"mine.yaml"}, {"paper"}),
        ("icu-ray probe --forget te", {"texts.jsonl"}, {"mine.yaml"}),
        ("icu-ray status ", {"runs"}, {"texts.jsonl"}),
        ("icu-ray completion ", {"bash", "zsh", "tcsh"}, {"runs"}),
    ],
)
def test_what_the_tab_key_offers(
    press: Callable[[str], set[str]], line: str, offered: set[str], not_offered: set[str]
) -> None:
    found = press(line)
    assert offered <= found, found
    assert not (not_offered & found), found


def test_every_shell_has_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, says in (("zsh", "#compdef icu-ray"), ("tcsh", "complete icu-ray")):
        assert main(["completion", shell]) == 0
        written = capsys.readouterr().out
        assert says in written and "table1_paper_rules" in written and "unlearn" in written
