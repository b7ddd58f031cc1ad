"""Imported evaluations in the benchmark's table, in LaTeX and in the figure of forgetting against utility.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icu_ray.cli.main import main
from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.benchmark_tradeoff import benchmark_panels, benchmark_tradeoff
from icu_ray.report.figures.pictures import pictures
from icu_ray.report.figures.theme import LIGHT, render
from icu_ray.report.formats.latex import ROWS, to_latex
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.page import to_html
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, write_evaluation
from tests.support.report_case import Cell, write_sweep

CELLS = [Cell(), Cell(sample=1), Cell("kl", "kl", 0.0, 1.0), Cell("retrained", "retrained", 0.0, 0.0)]
THEIRS = {"forget_Q_A_Prob": 0.25, "model_utility": 0.5, "forget_quality": 0.75, "their_own": 3.0}


def metrics(prob: float, utility: float) -> dict[str, float | None]:
    return {"tofu/forget_Q_A_Prob": prob, "tofu/model_utility": utility, "tofu/retain_Q_A_Prob": 0.9}


def report_of(tmp_path: Path, utility: float = 0.6, theirs: dict[str, float] | None = None) -> Report:
    folder = write_sweep(tmp_path, "s", CELLS)
    for number, cell in enumerate(CELLS):
        evaluation = TrialEvaluation(
            {"tofu_forget": "t"}, ("a", "b"), metrics(0.9, utility), metrics(number / 10, utility)
        )
        write_evaluation(TrialPaths.of(str(tmp_path), "s", cell.trial_id), evaluation)
    file = tmp_path / "npo_50%_EVAL.json"
    content = {name: {"agg_value": value} for name, value in (THEIRS if theirs is None else theirs).items()}
    file.write_text(json.dumps(content))
    assert main(["import", str(file), "--out", str(folder), "--label", "npo_50"]) == 0
    return make_report(collect([(str(tmp_path), "s")]))


def test_the_benchmarks_table_has_an_imported_row_in_every_form(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    (table,) = report.benchmarks
    assert table.columns == ("forget_Q_A_Prob", "model_utility")
    assert table.imported == (("npo_50, imported", (0.25, 0.5)),) and table.every[-1] == table.imported[0]
    assert "npo_50, imported" in to_html(report, [], {}, {}) and r"npo\_50, imported" in to_markdown(report, [])
    tex = to_latex(report)
    assert r"npo\_50, imported & 0.25 & 0.50 \\" in tex and "Imported: measured by another framework." in tex
    assert r"npo\_50 (imported) \\" in tex and r"their\_own & -- & " in tex
    lines = [line for line in tex.splitlines() if " & " in line and line.endswith(r"\\")]
    for name in ("table*", "tabular"):
        assert tex.count(rf"\begin{{{name}}}") == tex.count(rf"\end{{{name}}}") >= 3
    heading = next(line for line in lines if line.startswith("Metric &"))
    assert heading.count(" & ") == next(line for line in lines if line.startswith(r"their\_own")).count(" & ")


def test_an_import_without_the_benchmarks_columns_is_no_row_of_it(tmp_path: Path) -> None:
    report = report_of(tmp_path, theirs={f"other_{number}": 1.0 for number in range(ROWS + 5)})
    assert report.benchmarks[0].imported == ()
    tex = to_latex(report)
    assert tex.count("measured elsewhere") == 2  # a table holds so many lines
    assert tex.count(r"other\_") == ROWS + 5


def test_the_figure_marks_what_was_imported(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    (panel,) = benchmark_panels(report)
    assert panel.forgot == ("forget_Q_A_Prob",) and panel.utility == "model_utility"
    (axis, *_) = benchmark_tradeoff(report, LIGHT).axes
    places = {
        line.get_label(): (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axis.lines
        if not str(line.get_label()).startswith("_")
    }
    assert places.pop("Pareto front")[0] == pytest.approx(0.05)
    assert places == {
        "kl (–, 1)": pytest.approx((0.2, 0.6)),
        "icu (0.5, 1)": pytest.approx((0.05, 0.6)),
        "before": pytest.approx((0.9, 0.6)),
        "retrained": pytest.approx((0.3, 0.6)),
        "npo_50 (imported)": pytest.approx((0.25, 0.5)),
    }
    picture = next(each for each in pictures(report) if each.name == "benchmark-tradeoff")
    assert render(picture.draw, LIGHT)["png"].startswith(b"\x89PNG")


def test_a_utility_that_is_0_for_all_gives_way_to_one_that_tells_them_apart(tmp_path: Path) -> None:
    (panel,) = benchmark_panels(report_of(tmp_path, utility=0.0))
    assert panel.utility == "retain_Q_A_Prob"
