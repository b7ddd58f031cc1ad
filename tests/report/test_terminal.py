"""What is printed on a terminal: as wide as it is, and nothing that one copies cut in two.

Needs: nothing.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.console.terminal import UNBOUNDED, rich_console, wrapped
from icu_ray.plan.planning import plan_sweep
from icu_ray.report.numbers.summary import summarise
from icu_ray.report.terminal.plan_table import print_plan
from icu_ray.report.terminal.summary_tables import print_tables
from tests.support.report_case import Cell, write_sweep


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def said(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_plan_fits_eighty_columns(tmp_path: Path) -> None:
    storage = f"storage={tmp_path}/{'a-long-folder/' * 8}runs"
    plan = plan_sweep(load_config(find_config("quickstart"), [storage]), dry_run=True)
    console = terminal(80)
    print_plan(plan, console)
    lines = said(console)
    table = lines[: 1 + len(plan.trials)]
    assert lines[0].split() == ["trial", "lr", "workers", "status", "GPU", "h"]
    assert all(len(line) <= 80 for line in table) and all(t.name in " ".join(table) for t in plan.trials)
    assert any(line.endswith(f"{storage.removeprefix('storage=')}/quickstart.") for line in lines)  # not cut in two
    wide = terminal(160)
    print_plan(plan, wide)
    assert {"model", "sample", "method", "alpha", "beta"} <= set(said(wide)[0].split())


@pytest.mark.parametrize("width", [80, UNBOUNDED])
def test_a_summary_says_what_it_leaves_out(tmp_path: Path, width: int) -> None:
    reason = "an error in /a/long/path/" + "to/a/file/" * 12
    cells = [Cell(), Cell(seed=7), Cell("kl", "kl", 0.0, 1.0, status="failed", reason=reason)]
    write_sweep(tmp_path, "s", cells)
    console = terminal(width)
    print_tables(summarise(str(tmp_path), "s"), console)
    lines = said(console)
    text = "\n".join(lines)
    assert reason in text and "95.0 -> 55.0" in text
    header = next(line for line in lines if line.startswith("trial"))
    assert "seed" in header and header.isascii()
    if width == 80:
        assert all(len(line) <= 80 for line in lines if "Left out" not in line and reason not in line)
        assert any(line.startswith("Left out") and line.endswith("see trials.csv.") for line in lines)
    else:
        assert "BERT F1 %" in header and "Left out" not in text


def test_words_are_wrapped_and_paths_are_not_cut() -> None:
    path = "/a/very-long/path/" * 6
    lines = wrapped(f"some words before {path} and some after it", indent=4, columns=40).split("\n")
    assert any(path in line for line in lines) and all(line.startswith("    ") for line in lines[1:])
    stream = io.StringIO()
    rich_console(stream).print("word " * 100, markup=False)
    assert len(stream.getvalue().splitlines()) == 1
