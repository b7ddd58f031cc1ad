"""A sweep's files, damaged after they were written: report, status and sync read what is whole and name the rest.

Needs: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.report.collect import collect
from icu_ray.report.contents import make_report
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.latex import to_latex
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, trial_ids, write_beat, write_evaluation
from tests.support.fuzz_case import JUNK, command, damaged, damaged_bytes, fuzz, value_or_refusal
from tests.support.report_case import Cell, write_sweep

CELLS = [
    Cell(),
    Cell(sample=1),
    Cell(label="gradient-ascent", method="kumpr", alpha=0.0, beta=0.0),
    Cell(sample=2, status="running"),
    Cell(sample=3, status="failed", reason="diverged"),
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep, with an evaluation of its first trial."""
    storage = tmp_path_factory.mktemp("storage")
    folder = write_sweep(storage, "s", CELLS)
    paths = TrialPaths.of(str(storage), "s", trial_ids(str(storage), "s")[0])
    metrics = {"cls/hellaswag_acc": 0.5, "ppl/pile_icu": 12.0}
    write_evaluation(paths, TrialEvaluation({"hellaswag": "h"}, ("a", "b"), metrics, metrics, {"piqa": "no rows"}))
    write_beat(str(storage), "s", "finished")
    return folder


@st.composite
def damage(draw: Callable[..., Any], content: bytes) -> bytes:
    """A file's content, damaged in its values or in its bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged_bytes(content))
    rows = [json.loads(line) for line in content.splitlines()] if content.count(b"\n}") == 0 else [json.loads(content)]
    return b"".join(f"{json.dumps(row)}\n".encode() for row in draw(damaged(rows, NEAR)))


NEAR = st.one_of(JUNK, st.sampled_from([{}, [], {"name": 3}, {"method": 3}, "x", 0, -1, 10**25, 1e300, None, "[/red]"]))


def with_damage(sweep: Path, data: st.DataObject, look: Callable[[], None]) -> None:
    """Damage one or two files, look, and put them back."""
    files = sorted(p for p in sweep.rglob("*") if p.suffix in (".json", ".jsonl") and "report" not in p.parts)
    files = [path for path in files if path.name != "summary.json"]
    before = {path: path.read_bytes() for path in files}
    try:
        for path in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=2, unique=True)):
            path.write_bytes(data.draw(damage(before[path])))
        look()
    finally:
        for path, content in before.items():
            path.write_bytes(content)


@fuzz(100)
@given(data=st.data())
def test_status(sweep: Path, data: st.DataObject) -> None:
    def look() -> None:
        command("status", str(sweep))
        code, out, _ = command("status", str(sweep), "--json")
        assert code == 2 or json.loads(out)["trials"]

    with_damage(sweep, data, look)


@fuzz(60)
@given(data=st.data())
def test_report(sweep: Path, data: st.DataObject) -> None:
    """All of it but the drawing of figures, which takes a second each time."""

    def look() -> None:
        report = make_report(collect([(str(sweep.parent), sweep.name)]))
        to_markdown(report, [])
        to_latex(report)
        csv_tables(report)

    with_damage(sweep, data, lambda: void(value_or_refusal(look)))


@fuzz(2)
@given(data=st.data())
def test_report_by_the_command(sweep: Path, data: st.DataObject) -> None:
    with_damage(sweep, data, lambda: void(command("report", str(sweep))))


def void(_: object) -> None:
    return None


@fuzz(60)
@given(data=st.data())
def test_what_is_judged(sweep: Path, data: st.DataObject) -> None:
    with_damage(sweep, data, lambda: void(command("judge", str(sweep), "--dry-run")))


@fuzz(8)
@given(data=st.data())
def test_sync(sweep: Path, data: st.DataObject) -> None:
    with_damage(sweep, data, lambda: void(command("sync", str(sweep))))
