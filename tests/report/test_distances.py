"""The distance of each method's models to the gold standard, against plain code.

Needs: nothing.
"""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.report.collect import collect
from icu_ray.report.contents import make_report, state_word
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.formats.markdown import to_markdown
from icu_ray.report.numbers.distances import _ks
from icu_ray.report.numbers.summary import summarise
from icu_ray.report.tracking.metrics import sweep_batch
from icu_ray.storage.results import RETRAINED_WITHOUT
from tests.support.report_case import TARGETS, Cell, write_sweep

GOLD = (0.30, 0.0, 18.0, 4.0)


def distance(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Largest difference of the two shares of values at or below any value."""

    def share(values: tuple[float, ...], limit: float) -> float:
        return sum(value <= limit for value in values) / len(values)

    return max(abs(share(first, limit) - share(second, limit)) for limit in (*first, *second))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=8, max_size=8, unique=True))
def test_the_test_against_every_way_to_deal_the_values(values: list[int]) -> None:
    losses = tuple(value / 100 for value in values)
    first, second = losses[:4], losses[4:]
    found = distance(first, second)
    dealt = [distance(hand, tuple(set(losses) - set(hand))) for hand in itertools.combinations(losses, 4)]
    as_far = sum(other >= found - 1e-12 for other in dealt) / len(dealt)
    assert _ks(first, second) == (pytest.approx(found), pytest.approx(as_far))


def gold(sample: int, losses: tuple[float, ...] | None) -> Cell:
    how = {"reason": RETRAINED_WITHOUT, "epochs": 0, "final": GOLD}
    return Cell("retrained", "retrained", sample=sample, losses=losses, **how)  # type: ignore[arg-type]


def cells() -> list[Cell]:
    return [
        Cell(alpha=0.5, losses=(5.0, 6.0, 7.0, 8.0), final=(0.5, 0.0, 27.0, 3.0)),
        Cell(alpha=0.5, sample=1, losses=(3.0, 3.2, 2.9, 2.5), final=(0.6, 0.0, 25.0, 3.5)),
        gold(0, (3.0, 3.1, 2.8, 2.6)),
        gold(1, (3.0, 3.1, 2.8, 2.6)),
    ]


def test_a_row_for_each_method_and_one_before(tmp_path: Path) -> None:
    report = make_report(collect([(str(tmp_path), write_sweep(tmp_path, "s", cells()).name)]))
    (table,) = report.distances
    assert table.texts == TARGETS and [row.row.name for row in table.rows] == ["before unlearning", "icu (0.5, 1)"]
    before, icu = table.rows
    far, near = icu.distances
    assert (far.ks, far.p) == (1.0, pytest.approx(2 / 70)) and icu.told_apart == (1, 2)
    assert near.ks == pytest.approx(distance((3.0, 3.2, 2.9, 2.5), (3.0, 3.1, 2.8, 2.6))) and near.p > 0.9
    assert far.loss == pytest.approx(6.5 - 2.875) and near.loss == pytest.approx(2.9 - 2.875)
    assert far.differences["ma"] == pytest.approx(20) and near.differences["ma"] == pytest.approx(30)
    assert far.differences["ppl_heldout"] == pytest.approx(9)
    assert [each.ks for each in before.distances] == [1.0, 1.0] and before.distances[0].loss < 0


def test_it_is_in_the_table_and_in_no_ranking(tmp_path: Path) -> None:
    # By its numbers it would be the best of each column.
    report = make_report(collect([(str(tmp_path), write_sweep(tmp_path, "s", cells()).name)]))
    (block,) = report.blocks
    assert [row.label for row in block.rows] == ["before unlearning", "retrained", "icu"]
    gold = block.rows[1]
    assert gold.gold and not gold.marks and gold not in block.methods
    assert all("retrained" not in each.population for each in report.scores)
    assert not any("retrained" in (test.reference, test.other) for test in report.tests)


def test_it_is_no_success_of_a_method_and_no_failure(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", cells())
    summary = summarise(str(tmp_path), folder.name)
    assert {cell.method: cell.forgotten for cell in summary.cells} == {"icu": 2, "retrained": None}
    counts = sweep_batch(summary.results).values
    assert (counts["trials_forgotten"], counts["trials_not_forgotten"], counts["trials_measured"]) == (2, 0, 2)
    report = make_report(collect([(str(tmp_path), folder.name)]))
    assert {state_word(trial) for trial in report.found.trials if trial.method == "retrained"} == {"measured"}
    assert [row.counted[0] for row in report.blocks[0].rows] == [None, None, 2]
    assert "The same model, trained without the texts, has MA 30.0 % and EL10 0.0 %." in report.summary


def test_a_model_that_was_trained_otherwise_is_no_yardstick(tmp_path: Path) -> None:
    """Trials of an earlier config in the same folder, of a model of the same name."""
    folder = write_sweep(tmp_path, "s", cells())
    for spec in (tmp_path / "s" / "trials").glob("*/spec.json"):
        written = json.loads(spec.read_text())
        written["settings"]["model"] = {"train": {"lr": 1e-4 if written["method"] == "retrained" else 2e-4}}
        spec.write_text(json.dumps(written))
    report = make_report(collect([(str(tmp_path), folder.name)]))
    assert [row.row.name for table in report.distances for row in table.rows] == ["before unlearning"]


def test_every_form_of_the_report_has_it(tmp_path: Path) -> None:
    report = make_report(collect([(str(tmp_path), write_sweep(tmp_path, "s", cells()).name)]))
    markdown = to_markdown(report, ())
    assert "## Distance to the retrained model" in markdown and "1 of 2" in markdown
    lines = list(csv.DictReader(csv_tables(report)["distances.csv"].decode("utf-8-sig").splitlines()))
    assert [line["row"] for line in lines] == ["before unlearning"] * 2 + ["icu (0.5, 1)"] * 2
    assert float(lines[2]["loss_difference"]) == pytest.approx(3.625) and float(lines[2]["ks"]) == 1
    assert float(lines[2]["ma_pct_difference"]) == pytest.approx(20)


def test_without_losses_of_single_texts_it_says_so(tmp_path: Path) -> None:
    old = [Cell(losses=None), gold(0, None)]
    report = make_report(collect([(str(tmp_path), write_sweep(tmp_path, "s", old).name)]))
    assert "losses of single texts are not kept in these results" in to_markdown(report, ())
    (table,) = report.distances
    assert table.rows[1].distances[0].ks is None and table.rows[1].distances[0].differences["ma"] is not None


def test_without_a_retrained_model_there_is_no_such_table(tmp_path: Path) -> None:
    report = make_report(collect([(str(tmp_path), write_sweep(tmp_path, "s", cells()[:2]).name)]))
    assert not report.distances and "Distance" not in to_markdown(report, ())
