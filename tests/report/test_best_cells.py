"""The best cell of each method: forgetting first, then cost; shown in CSV, page and Markdown.

Needs: nothing.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.report.collect import ReportedTrial, collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.formats.page import to_html
from icu_ray.storage.audits import ModelAudit, TrialAudit
from tests.support.report_case import Cell, write_sweep

# Thresholds are MA 0.5994 and EL 0.0499; the perplexity before is 20.
GRID = {
    "icu (0.5, 1)": (Cell(alpha=0.5, final=(0.55, 0.04, 24.0, 3.8)), -math.log(1.2)),
    "icu (1, 1)": (Cell(alpha=1.0, final=(0.65, 0.04, 20.0, 3.8), status="not_forgotten"), -10 * 0.0506),
    "graddiff (1, –)": (Cell("graddiff", "graddiff", 1.0, final=(0.5, 0.03, 40.0, 3.8)), -math.log(2)),
    "graddiff (4, –)": (
        Cell("graddiff", "graddiff", 4.0, final=(0.61, 0.06, 21.0, 3.8), status="not_forgotten"),
        -10 * (0.0106 + 0.0101) - math.log(1.05),
    ),
}
CELLS = [cell for cell, _ in GRID.values()]


def report(folder: Path, cells: list[Cell]) -> Report:
    write_sweep(folder, "grid", cells)
    return make_report(collect([(str(folder), "grid")]))


def chosen(found: Report) -> list[tuple[str, int]]:
    return [(each.row.name, each.cells) for each in found.best]


def test_each_method_has_its_best_and_the_best_stands_first(tmp_path: Path) -> None:
    found = report(tmp_path, CELLS)
    # ICU forgets at 1.2 times the perplexity. GradDiff does at twice, which is worse than barely missing both limits.
    assert chosen(found) == [("icu (0.5, 1)", 2), ("graddiff (4, –)", 2)]
    for each in found.best:
        assert each.model == "125m" and each.objective == pytest.approx(GRID[each.row.name][1])


@pytest.mark.parametrize("name", list(GRID))
def test_the_objective_of_every_cell_is_that_by_hand(tmp_path: Path, name: str) -> None:
    """Each cell beside one of its method that is worse in everything."""
    cell, objective = GRID[name]
    (best,) = report(tmp_path, [cell, replace(cell, alpha=9.0, final=(0.9, 0.7, 900.0, 1.0))]).best
    assert (best.row.name, best.objective) == (name, pytest.approx(objective))


def test_a_cell_is_its_mean_over_forget_samples(tmp_path: Path) -> None:
    """Each cell is the better one on one of two samples: -log 1.2 and 0 against twice -log 1.1."""
    perplexities = {(0.5, 0): 24.0, (0.5, 1): 20.0, (1.0, 0): 22.0, (1.0, 1): 22.0}
    cells = [Cell(alpha=a, sample=s, final=(0.5, 0.04, ppl, 3.8)) for (a, s), ppl in perplexities.items()]
    (best,) = report(tmp_path, cells).best
    assert best.row.name == "icu (0.5, 1)" and len(best.row.trials) == 2
    assert best.objective == pytest.approx(-math.log(1.2) / 2)


def test_a_cell_with_a_trial_that_has_not_ended_or_failed_is_not_chosen(tmp_path: Path) -> None:
    perfect = Cell(alpha=0.5, final=(0.1, 0.0, 20.0, 3.8))
    others = [Cell(alpha=a, sample=s, final=(0.5, 0.04, 20 + a, 3.8)) for a in (1.0, 2.0) for s in (0, 1)]
    for status in ("running", "failed", None):
        found = report(tmp_path / str(status), [perfect, replace(perfect, sample=1, status=status), *others])
        assert chosen(found) == [("icu (1, 1)", 2)]


def test_learning_rates_are_cells_too(tmp_path: Path) -> None:
    cells = [Cell("kumpr", "kumpr", lr=lr, final=(0.5, 0.04, ppl, 3.8)) for lr, ppl in ((1e-5, 30.0), (2e-5, 22.0))]
    found = report(tmp_path, cells)
    assert chosen(found) == [("kumpr [optim.lr=2e-05]", 2)]
    (row,) = csv.DictReader(io.StringIO(csv_tables(found)["best_cells.csv"].decode("utf-8-sig")))
    assert row["lr"] == "2e-05"


def audit(back: int) -> TrialAudit:
    return TrialAudit({}, ("", ""), 0.5, ModelAudit(8, 8), ModelAudit(8, back))


def alpha_of(trial: ReportedTrial) -> float:
    assert trial.result is not None
    return float(trial.result.hyperparameters["alpha"])


def test_what_an_audit_brought_back_counts_once_all_cells_have_one(tmp_path: Path) -> None:
    """The cell that forgets more cheaply comes back by half; the other one holds."""
    write_sweep(tmp_path, "grid", CELLS[:2])
    found = collect([(str(tmp_path), "grid")])
    backs = {0.5: 4, 1.0: 0}
    for attacked, expected in (
        ((0.5, 1.0), ("icu (1, 1)", -10 * 0.0506, True)),
        ((0.5,), ("icu (0.5, 1)", -math.log(1.2), False)),
        ((), ("icu (0.5, 1)", -math.log(1.2), False)),
    ):
        trials = tuple(
            replace(each, audit=audit(backs[alpha_of(each)]) if alpha_of(each) in attacked else None)
            for each in found.trials
        )
        made = make_report(replace(found, trials=trials))
        (best,) = made.best
        assert (best.row.name, best.objective, best.audited) == (expected[0], pytest.approx(expected[1]), expected[2])
        (row,) = csv.DictReader(io.StringIO(csv_tables(made)["best_cells.csv"].decode("utf-8-sig")))
        assert float(row["audited" if best.audited else "forget_cheaply"]) == pytest.approx(expected[1], abs=1e-5)
        assert ("(audited)" in to_markdown(made, ()).split("## Best cell")[1].split("\n\n")[1]) == best.audited


def test_a_cell_of_which_it_is_not_known_what_comes_back_does_not_hold(tmp_path: Path) -> None:
    """Nothing came back from it, but one of its attacks could not be run: no cell is ranked by what came back."""
    write_sweep(tmp_path, "grid", CELLS[:2])
    found = collect([(str(tmp_path), "grid")])
    failed = ModelAudit(8, 0, errors={"relearn": "out of memory"})
    audits = {0.5: TrialAudit({}, ("", ""), 0.5, ModelAudit(8, 8), failed), 1.0: audit(4)}
    trials = tuple(replace(each, audit=audits[alpha_of(each)]) for each in found.trials)
    (best,) = make_report(replace(found, trials=trials)).best
    assert (best.row.name, best.audited) == ("icu (0.5, 1)", False)
    assert best.objective == pytest.approx(-math.log(1.2))


def test_a_collapsed_model_counts_as_a_thousand_times_the_perplexity(tmp_path: Path) -> None:
    cells = [
        Cell(alpha=a, beta=1.0, final=(0.1, 0.0, ppl, 0.1), status="not_forgotten") for a, ppl in ((1, 1e9), (2, 1e7))
    ]
    (best,) = report(tmp_path, cells).best
    assert best.objective == pytest.approx(-math.log(1000))


def test_it_is_shown_in_every_form(tmp_path: Path) -> None:
    found = report(tmp_path, CELLS)
    rows = list(csv.DictReader(io.StringIO(csv_tables(found)["best_cells.csv"].decode("utf-8-sig"))))
    assert [(row["model"], row["method"], row["alpha"], row["beta"]) for row in rows] == [
        ("125m", "icu", "0.5", "1.0"),
        ("125m", "graddiff", "4.0", ""),
    ]
    assert [(row["cells"], row["trials"], row["forgotten"]) for row in rows] == [("2", "1", "1"), ("2", "1", "0")]
    assert [float(row["forget_cheaply"]) for row in rows] == pytest.approx([-0.18232, -0.25579], abs=1e-5)

    section = to_markdown(found, ()).split("## Best cell of each method\n\n")[1].split("\n\n")[0].split("\n")
    assert len(section) == 4 and len({line.count("|") for line in section}) == 1
    assert [cell.strip() for cell in section[2].strip("|").split("|")] == [
        *("125m", "icu (0.5, 1)", "2", "1/1", "55.0", "1.20", "-0.18")
    ]

    page = to_html(found, (), {}, {})
    assert '<a href="#best-cells">' in page and page.count('id="best-cells"') == 1
    table = page.split('id="best-cells"')[1].split("</section>")[0]
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.split("<tr>") if "<td" in line]
    assert shown == [
        ["icu (0.5, 1)", "2", "1/1", "55.0", "1.20", "-0.18"],
        ["graddiff (4, –)", "2", "0/1", "61.0", "1.05", "-0.26"],
    ]


def test_methods_with_one_cell_each_have_no_such_section(tmp_path: Path) -> None:
    single = [Cell(), Cell("graddiff", "graddiff", 1.0), Cell("kumpr", "kumpr")]
    found = report(tmp_path, [*single, *(replace(cell, sample=1) for cell in single)])
    assert found.best == () and "best_cells.csv" not in csv_tables(found)
    assert "Best cell" not in to_markdown(found, ()) and "Best cell" not in to_html(found, (), {}, {})


def test_beside_a_grid_a_method_with_one_cell_is_listed_and_a_model_without_one_is_not(tmp_path: Path) -> None:
    found = report(tmp_path, [*CELLS[:2], Cell("kumpr", "kumpr", final=(0.5, 0.04, 100.0, 3.8)), Cell(model="1.3b")])
    assert chosen(found) == [("icu (0.5, 1)", 2), ("kumpr", 1)]
    assert {each.model for each in found.best} == {"125m"}
