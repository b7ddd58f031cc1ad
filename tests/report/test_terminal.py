"""What is printed on a terminal: as wide as it is, and nothing that one copies cut in two.

Needs: nothing.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from icu_ray.cli.doctor import print_finding
from icu_ray.cli.main import make_parser
from icu_ray.cli.submit import job_lines
from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.console.progress import Step
from icu_ray.console.terminal import UNBOUNDED, fitted, rich_console, wrapped
from icu_ray.plan.planning import plan_sweep
from icu_ray.report.collect import collect
from icu_ray.report.numbers.columns import PAPER_COLUMNS
from icu_ray.report.numbers.summary import summarise
from icu_ray.report.terminal.live import LiveView
from icu_ray.report.terminal.plan_table import print_plan
from icu_ray.report.terminal.status import status_table
from icu_ray.report.terminal.summary_tables import print_tables
from icu_ray.services.doctor import Finding
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, write_beat, write_evaluation
from icu_ray.sweep.job_list import ListedJob
from tests.support.report_case import Cell, write_sweep
from tests.sweep.test_prepare import plan_of

LONG = "https://host.example/" + "a-long-folder/" * 9 + "x.bin"  # 150 characters and no place to break


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def piped() -> Console:
    """Whoever made it so narrow: a file has no width."""
    return Console(file=io.StringIO(), width=80)


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
    assert lines[0].split() == ["trial", "beta", "lr", "workers", "status"]
    assert "Left out (narrow terminal): model, sample, method, alpha; see --json." in lines
    assert all(len(line) <= 80 for line in table) and all(t.name in " ".join(table) for t in plan.trials)
    assert any(line.endswith(f"{storage.removeprefix('storage=')}/quickstart.") for line in lines)  # not cut in two
    # Words are not cut either.
    assert all(len(line) <= 80 for line in lines if "a-long-folder" not in line)
    assert "12 trials (12 new); the largest needs 1 worker." in lines
    wide = terminal(160)
    print_plan(plan, wide)
    assert {"model", "sample", "method", "alpha", "beta"} <= set(said(wide)[0].split())
    for minutes, expected in (
        (0.2, "less than 1 worker minute on"),
        (1.2, "1 worker minute on"),
        (9, "9 worker minutes"),
    ):
        print_plan(replace(plan, trials=(replace(plan.trials[0], minutes=minutes),)), wide)
        assert f"Estimate for what is left: {expected}" in "\n".join(said(wide))
    for gpus, expected in ((0, "1 CPU"), (0.5, "1 x 0.5 GPU"), (1, "1 GPU"), (2, "1 x 2 GPU")):
        model = plan.trials[0].model.model_copy(update={"gpus_per_worker": gpus})
        wide = terminal(160)
        print_plan(replace(plan, trials=(replace(plan.trials[0], model=model),)), wide)
        assert f" {expected} " in said(wide)[1]


@pytest.mark.parametrize("width", [80, UNBOUNDED])
def test_a_summary_says_what_it_leaves_out(tmp_path: Path, width: int) -> None:
    reason = "an error in /a/long/path/" + "to/a/file/" * 12
    cells = [Cell(), Cell(seed=7), Cell("kl", "kl", 0.0, 1.0, status="failed", reason=reason)]
    write_sweep(tmp_path, "s", cells)
    console = terminal(width)
    print_tables(summarise(str(tmp_path), "s"), console)
    lines = said(console)
    text = "\n".join(lines)
    assert reason in " ".join(lines) and "95.0 -> 55.0" in text
    assert reason.rpartition(" ")[2] in lines or width > 80
    header = next(line for line in lines if line.startswith("trial"))
    assert "seed" in header and header.isascii()
    if width == 80:
        assert all(len(line) <= 80 for line in lines if "Left out" not in line and line not in reason)
        assert any(line.startswith("Left out") and line.endswith("see trials.csv.") for line in lines)
    else:
        assert "BERT F1 %" in header and "Left out" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_a_plan_a_status_or_a_sweeps_tables_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    many = [Cell(seed=seed, lr=lr, model="a-model-of-some-length") for seed in (7, 42) for lr in (5e-6, 1e-5)]
    cells = [*many, Cell("kl", "kl", 0.0, 1.0, status="not_forgotten", reason="after epoch 4, MA 60.1 %, EL10 8.2 %")]
    write_sweep(tmp_path, "s", [*cells, *(Cell(f"earlier-{n}") for n in range(6))])
    write_sweep(tmp_path, "s", cells)  # the other trials are of an earlier config now
    for cell in cells:
        measured = dict.fromkeys([name for column in PAPER_COLUMNS for name in column.metrics], 0.5)
        write_evaluation(
            TrialPaths.of(str(tmp_path), "s", cell.trial_id), TrialEvaluation({}, ("a", "b"), measured, measured)
        )
    printed = {}
    for what in ("plan", "status", "tables"):
        console = terminal(width)
        if what == "plan":
            print_plan(plan_of(tmp_path), console)
        elif what == "status":
            found = collect([(str(tmp_path), "s")], unstarted=True)
            console.print(status_table(found, console), soft_wrap=True)
        else:
            print_tables(summarise(str(tmp_path), "s"), console)
        printed[what] = said(console)
        wide = [line for line in printed[what] if len(line) > width and str(tmp_path) not in line]
        assert wide == [], what
        assert not [line for line in printed[what] if "\N{HORIZONTAL ELLIPSIS}" in line], what
        assert not [line for line in printed[what] if re.search(r"\w-$", line.rstrip())], what
    assert any("earlier-5" in line for line in printed["status"])


def test_lines_stay_lines_and_long_ones_are_wrapped_where_they_begin() -> None:
    text = "two problems:\n  optim.lr: " + " ".join(["word"] * 12) + "\n    ^\n\nlast"
    shown = fitted(text, 40).split("\n")
    assert shown[0] == "two problems:" and shown[-3:] == ["    ^", "", "last"]
    assert shown[1].startswith("  optim.lr: word") and all(line.startswith("  word") for line in shown[2:-3])
    assert all(len(line) <= 40 for line in shown) and fitted(text, UNBOUNDED) == text


def test_words_are_wrapped_and_paths_are_not_cut() -> None:
    path = "/a/very-long/path/" * 6
    lines = wrapped(f"some words before {path} and some after it", indent=4, columns=40).split("\n")
    assert lines == ["some words before", path, "    and some after it"]
    assert wrapped(f"{'x' * 38} and", indent=4, columns=40) == f"\n  {'x' * 38}\n    and"
    # Nor a command that stands in quotes.
    for columns in range(20, 60):
        words = "some words, then 'icu-ray data mirror x', the user's own"
        assert "'icu-ray data mirror x'" in wrapped(words, columns=columns)
    stream = io.StringIO()
    rich_console(stream).print("word " * 100, markup=False)
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("make", [lambda: terminal(80), piped])
def test_a_status_cuts_no_address(tmp_path: Path, make: Callable[[], Console]) -> None:
    reason = f"cannot read {LONG} of the model hub"
    cells = [Cell(), Cell(model="a-name-of-some-length", seed=7, status="failed", reason=reason)]
    write_sweep(tmp_path, "s", cells)
    write_beat(str(tmp_path), "s", "running", (f"model hub: fetching {LONG}, 34 %",))
    console = make()
    console.print(status_table(collect([(str(tmp_path), "s")], unstarted=True), console), soft_wrap=True)
    lines = said(console)
    assert f"  model hub: fetching {LONG}, 34 %" in lines
    assert any(line.endswith(f"failed: {reason}") for line in lines)
    header = next(place for place, line in enumerate(lines) if line.startswith("trial"))
    assert lines[header].split()[:3] == ["trial", "state", "epoch"]
    names = [line.split()[0] for line in lines[header + 1 : header + 3]]
    assert names == ["icu-125m-s0-a0.5-b1.0", "icu-a-name-of-some-length-s0-a0.5-b1.0"]
    assert all(len(line) <= 80 for line in lines[header : header + 3])


@pytest.mark.parametrize("make", [lambda: terminal(80), piped])
def test_what_a_running_sweep_tells_is_one_line_each(tmp_path: Path, make: Callable[[], Console]) -> None:
    plan = plan_of(tmp_path)
    first, second = (replace(trial, name=f"{'a-long-name-' * 12}{n}") for n, trial in enumerate(plan.trials[:2]))
    console = make()
    view = LiveView(replace(plan, trials=(first, second)), console)
    view.step(Step("model hub", None, f"fetching {LONG}"))
    for trial in (first, second):
        view.started(trial.trial_id)
    view.restarted(first.trial_id)
    view.ended(first.trial_id, "failed", f"cannot read {LONG} of the model hub")
    lines = said(console)
    ended = f"failed        {first.name}: cannot read {LONG} of the model hub [1/2]"
    if not console.is_terminal:
        assert ended in lines
        assert lines[:4] == [
            f"prepare  model hub: fetching {LONG}",
            f"start    {first.name}",
            f"start    {second.name}",
            f"again    {first.name}: its workers were restarted",
        ]
        return
    # There a line ends between words, and what can be copied is whole.
    assert " ".join(ended.split()) in " ".join(" ".join(lines).split())
    assert LONG in lines and all(len(line) <= 80 for line in lines if LONG not in line and first.name not in line)
    # What renews itself stays within the terminal, and shows the whole of a name.
    with console.capture() as captured:
        console.print(view._render())
    shown = captured.get().splitlines()
    assert all(len(line) <= 80 for line in shown)
    letters = "".join("".join(shown).split())
    assert second.name in letters.replace("starting0s", "").replace("starting1s", "") and LONG in letters


@pytest.mark.parametrize("columns", [80, UNBOUNDED])
def test_listed_jobs_fit_a_terminal(columns: int) -> None:
    command = f"python -m train --data {LONG}"
    name = "a-sweep-of-some-length"
    jobs = [
        ListedJob(f"{name}-20260102-030405", "RUNNING", name, "", 1.0, 62.0, 3, 12),
        ListedJob("raysubmit_x", "FAILED", "", command, None, None),
    ]
    lines = job_lines(jobs, columns)
    assert any(line.strip() == command for line in lines)
    assert all(len(line) <= 80 for line in lines if LONG not in line) or columns > 80
    text = "\n".join(lines)
    assert jobs[0].id in text and "3 of 12 trials done" in text and "1 min 01 s" in text
    assert (lines[0].split() == ["status", "job", "sweep", "started", "time"]) == (columns > 80)
    short = job_lines([ListedJob("s", "RUNNING", "s", "", 1.0, 62.0, 3, 12)], columns)
    assert len(short) == 3 and short[0].split() == ["status", "job", "sweep", "started", "time"]


@pytest.mark.parametrize("make", [lambda: terminal(80), piped])
def test_a_finding_of_the_doctor_can_be_copied(make: Callable[[], Console]) -> None:
    console = make()
    remedy = f"some words about it that are long enough, then run 'icu-ray data mirror --out {LONG}' or so"
    print_finding(Finding("note", "model hub", f"{LONG} does not answer", remedy), console)
    lines = said(console)
    assert lines[0].startswith("note") and any(LONG in line for line in lines)
    assert any(f"'icu-ray data mirror --out {LONG}'" in line for line in lines)
    assert all(len(line) <= 80 for line in lines if LONG not in line)
    assert console.is_terminal or len(lines) == 2


def test_help_breaks_no_word_and_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parser = make_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
    for name, command in commands.items():
        lines = command.format_help().partition("\nexample:")[0].splitlines()
        assert not [line for line in lines if line.endswith("-")], name
        assert all(len(line) <= 80 for line in lines), name
