"""A benchmark's table: by which conventions and on how many rows, what is printed beside it, means of p-values.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.formats.latex import to_latex
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.page import to_html
from icu_ray.report.numbers.benchmark_tables import BenchmarkTable
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, write_evaluation
from tests.support.report_case import Cell, config, write_sweep

TARGET = "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"
Metrics = dict[str, float | None]


def quality(p: float, log10: float, rows: float = 40) -> Metrics:
    return {
        "tofu/forget_quality": p,
        "tofu/forget_quality_log10": log10,
        "tofu/forget_quality_rows": rows,
        "tofu/forget_quality_rows_asked": 40.0,
    }


def report_of(
    tmp_path: Path,
    cells: list[tuple[Cell, tuple[Metrics, Metrics] | None]],
    source: str = TARGET,
    split: str = "forget10",
    **evaluation: Any,
) -> Report:
    """Of trials with what their evaluation found before and after; None: it has none."""
    settings = config("s")
    settings["models"][0]["source"] = source
    settings |= {"data": {"source": "tofu", "split": split}, "evaluation": {"suites": ["benchmark"], **evaluation}}
    write_sweep(tmp_path, "s", [cell for cell, _ in cells], settings)
    for cell, found in cells:
        if found is not None:
            evaluated = TrialEvaluation({"tofu_forget": "t"}, ("a", "b"), *found)
            write_evaluation(TrialPaths.of(str(tmp_path), "s", cell.trial_id), evaluated)
    return make_report(collect([(str(tmp_path), "s")]))


def table_of(tmp_path: Path, **told: Any) -> BenchmarkTable:
    (table,) = report_of(tmp_path, [(Cell(), (quality(0.1, -1), quality(0.5, -0.3)))], **told).benchmarks
    return table


def test_p_values_have_a_geometric_mean_and_a_failed_trial_is_seen(tmp_path: Path) -> None:
    measured = [
        (Cell(), (quality(1e-4, -4), quality(1e-9, -9))),
        (Cell(sample=1), (quality(1e-8, -8), quality(1.0, 0))),
        (Cell(sample=2), None),
    ]
    report = report_of(tmp_path, measured)
    (table,) = report.benchmarks
    rows = {name: dict(zip(table.columns, values, strict=True)) for name, values in table.rows}
    method = next(name for name in rows if name != "before unlearning")
    assert rows[method]["forget_quality"] == pytest.approx(10**-4.5)
    assert rows[method]["forget_quality_log10"] == pytest.approx(-4.5)
    # The original model's, of all forget samples, each beside its own retrained model.
    assert rows["before unlearning"]["forget_quality_log10"] == pytest.approx(-6)
    assert rows["before unlearning"]["forget_quality"] == pytest.approx(1e-6)
    assert table.partial == {method: "2 of 3 trials"}
    for text in (to_html(report, [], {}, {}), to_markdown(report, []), to_latex(report)):
        assert "(2 of 3 trials)" in text


def test_the_heading_says_on_what_and_how(tmp_path: Path) -> None:
    cut = report_of(tmp_path / "a", [(Cell(), (quality(0.1, -1), quality(0.5, -0.3)))], limit=40)
    heading = "TOFU forget10, first 40 rows of each set, measures as defined"
    assert cut.benchmarks[0].heading == heading
    for text in (to_html(cut, [], {}, {}), to_markdown(cut, []), to_latex(cut)):
        assert heading in text.replace("\\", "")
    theirs = table_of(tmp_path / "b", conventions="open_unlearning")
    assert theirs.heading == "TOFU forget10, measures as OpenUnlearning's"
    assert table_of(tmp_path / "c", limit=5000).heading == "TOFU forget10, measures as defined"
    some = table_of(tmp_path / "d", conventions={"base": "open_unlearning", "tail": "eos", "stemmer": True})
    assert some.heading == "TOFU forget10, measures as OpenUnlearning's but for tail=eos"
    assert any("ours measures as OpenUnlearning's but for tail=eos" in each for each in some.notes)
    own = table_of(tmp_path / "e", conventions={"stemmer": False, "wrong_mean": "arithmetic"})
    assert own.heading == "TOFU forget10, measures as defined but for stemmer=false, wrong_mean=arithmetic"


def test_no_p_value_of_other_rows_is_printed_beside_ours(tmp_path: Path) -> None:
    def of(table: BenchmarkTable, column: str) -> set[float | None]:
        return {values[table.columns.index(column)] for _, values in table.printed}

    before = {**quality(0.1, -1), "tofu/model_utility": 0.5}
    measured = [(Cell(), (before, before))]
    (cut,) = report_of(tmp_path / "a", measured, limit=40).benchmarks
    assert of(cut, "forget_quality") == {None} and 0.6 in of(cut, "model_utility")
    said = " ".join(cut.notes)
    assert "Their forget_quality is not shown" in said and "Printed rows have measures as OpenUnlearning's" in said
    (whole,) = report_of(tmp_path / "b", measured, conventions="open_unlearning").benchmarks
    assert 1.66e-21 in of(whole, "forget_quality") and whole.notes == ()
    # forget01 has 40 rows: 40 cut the other sets alone.
    (some,) = report_of(tmp_path / "c", measured, split="forget01", limit=40).benchmarks
    assert 0.01 in of(some, "forget_quality") and "Printed rows are of whole sets." in some.notes


@pytest.mark.parametrize(
    ("source", "split", "there"),
    [
        (TARGET, "forget10", True),
        ("meta-llama/Llama-3.2-1B-Instruct", "forget10", True),
        ("open-unlearning/tofu_Llama-2-7b-chat-hf_full", "forget10", True),
        ("open-unlearning/tofu_Llama-3.2-1B-Instruct_retain90", "forget10", False),
        ("someone/Llama-3.2-1B-Instruct-abliterated", "forget10", False),
        ("open-unlearning/unlearn_tofu_Llama-3.2-1B-Instruct_forget10_NPO", "forget10", False),
        ("", "forget10", False),
    ],
)
def test_printed_rows_are_of_that_very_model(tmp_path: Path, source: str, split: str, there: bool) -> None:
    assert bool(table_of(tmp_path, source=source, split=split).printed) is there


def test_few_rows_and_a_missing_privleak_are_said(tmp_path: Path) -> None:
    after: Metrics = {**quality(1.0, 0, rows=2), "tofu/privleak": None, "tofu/rel_diff": -50.0}
    table = report_of(tmp_path, [(Cell(), (quality(0.1, -1), after))], source="x/y").benchmarks[0]
    few, undefined = table.notes
    assert "forget_quality is of 2 of 40 rows" in few and "AUC of the retrained model is 1" in undefined
    assert table_of(tmp_path / "all", source="x/y").notes == ()
