"""What the evaluation measures by epoch: the figure, epochs.csv, summary.json, and what is said where it is missing.

Needs: nothing; the slow test writes a database of MLflow's.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from icu_ray.report.collect import collect
from icu_ray.report.collect_tracked import collect_tracked
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.evaluated_epochs import evaluated_epochs, evaluated_measures
from icu_ray.report.figures.pictures import pictures
from icu_ray.report.figures.theme import LIGHT, render
from icu_ray.report.formats.csv_tables import csv_tables
from icu_ray.report.numbers.summary import summarise, write_tables
from icu_ray.report.tracking.sync import sync_sweep
from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.epoch_files import add_epoch_evaluation, read_epoch_evaluations, write_epoch_evaluations
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths, read_evaluation, read_result, write_evaluation, write_result
from tests.support.report_case import Cell, config, write_sweep

ICU = Cell()
OTHER = Cell("kl", "kl", 0.0, 1.0, epochs=3)
GOLD = Cell("retrained", "retrained", 0.0, 0.0, epochs=0)
EPOCHS = {"when": "epochs", "suites": ["benchmark"]}


def metrics(log10: float | None, utility: float, hellaswag: float = 0.5) -> dict[str, float | None]:
    p = None if log10 is None else 10**log10
    told = {"tofu/forget_quality": p, "tofu/forget_quality_log10": log10, "tofu/model_utility": utility}
    return {**told, "cls/hellaswag_acc": hellaswag, "tofu/forget_quality_rows": 40.0}


def paths_of(storage: Path, cell: Cell) -> TrialPaths:
    return TrialPaths.of(str(storage), "s", cell.trial_id)


def swept(storage: Path, when: dict[str, Any] | None = EPOCHS) -> None:
    """A sweep of two methods, of which one has a curve, and the retrained model."""
    write_sweep(storage, "s", [ICU, OTHER, GOLD], {**config("s"), **({} if when is None else {"evaluation": when})})
    ends = {ICU: metrics(-1.0, 0.4), OTHER: metrics(-2.0, 0.3), GOLD: metrics(0.0, 0.6)}
    for cell, after in ends.items():
        write_evaluation(paths_of(storage, cell), TrialEvaluation({}, ("", ""), metrics(-9.0, 0.6), after))
    for epoch in (1, 2, 3):
        line = EpochEvaluation(
            epoch, f"h{epoch}", {}, metrics(-9.0 + 2 * epoch if epoch != 2 else None, 0.6 - epoch / 20)
        )
        add_epoch_evaluation(paths_of(storage, ICU), line)


def report_of(storage: Path) -> Report:
    return make_report(collect([(str(storage), "s")]))


def test_each_measure_has_a_panel_with_a_line_a_trial(tmp_path: Path) -> None:
    swept(tmp_path)
    report = report_of(tmp_path)
    (block,) = report.blocks
    names = [measure.heading for measure in evaluated_measures(block)]
    assert names == ["forget_quality (log10)", "model_utility", "cls/hellaswag_acc (%)"]
    axes = {axis.get_title(): axis for axis in evaluated_epochs(block, report, LIGHT).axes if axis.get_visible()}
    lines = {line.get_label(): line for line in axes["forget_quality (log10)"].lines}
    # The trial without models of epochs has no line, and what is None no point.
    assert list(lines) == ["icu (0.5, 1)", "original", "retrained"]
    points = lines["icu (0.5, 1)"]
    assert list(points.get_xdata()) == [0, 1, 3, 4] and list(points.get_ydata()) == [-9.0, -7.0, -3.0, -1.0]
    assert list(lines["original"].get_ydata()) == [-9.0, -9.0] and list(lines["retrained"].get_ydata()) == [0.0, 0.0]
    percent = {line.get_label(): list(line.get_ydata()) for line in axes["cls/hellaswag_acc (%)"].lines}
    assert percent["icu (0.5, 1)"] == [50.0] * 5
    picture = next(picture for picture in pictures(report) if picture.name == "evaluated-epochs-125m")
    assert "forget_quality (log10), model_utility" in picture.alt
    assert render(picture.draw, LIGHT)["png"].startswith(b"\x89PNG")
    assert not any("have no curve" in each.caption for each in pictures(report))


def test_the_values_are_in_files(tmp_path: Path) -> None:
    swept(tmp_path)
    rows = list(csv.DictReader(io.StringIO(csv_tables(report_of(tmp_path))["epochs.csv"].decode("utf-8-sig"))))
    assert {row["trial"] for row in rows} == {"icu-125m-s0-a0.5-b1.0"}
    quality = {row["epoch"]: row["value"] for row in rows if row["metric"] == "tofu/forget_quality_log10"}
    assert {epoch: float(value) if value else None for epoch, value in quality.items()} == {
        "0": -9.0,
        "1": -7.0,
        "2": None,
        "3": -3.0,
        "4": -1.0,
    }
    write_tables(summarise(str(tmp_path), "s"))
    told = json.loads((tmp_path / "s" / "summary.json").read_text())["evaluations_by_epoch"]
    assert set(told) == {ICU.trial_id} and list(told[ICU.trial_id]) == ["0", "1", "2", "3", "4"]
    assert told[ICU.trial_id]["2"]["tofu/forget_quality"] is None
    assert told[ICU.trial_id]["3"] == pytest.approx(metrics(-3.0, 0.45))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    swept(tmp_path)
    paths = paths_of(tmp_path, ICU)
    write_epoch_evaluations(paths, [EpochEvaluation(3, "h", {"wow": "t"}, {}, {"wow": "x: no answer"})])
    said = [finding.text for finding in report_of(tmp_path).findings]
    assert "icu-125m-s0-a0.5-b1.0: not evaluated after epoch 1, 2" in said
    assert "icu-125m-s0-a0.5-b1.0: not evaluated on wow after epoch 3: x: no answer" in said
    assert "kl-125m-s0-a0.0-b1.0: not evaluated after epoch 1, 2" in said
    # A trial of before the key says so; the gold standard has no epochs to lack.
    other = read_result(paths_of(tmp_path, OTHER))
    assert other is not None and other.provenance is not None
    earlier = replace(other.provenance, config={**other.provenance.config, "evaluation": {"when": "ends"}})
    write_result(paths_of(tmp_path, OTHER), replace(other, provenance=earlier))
    said = [finding.text for finding in report_of(tmp_path).findings]
    assert [text for text in said if text.startswith("ended before evaluation.when=epochs was set")] == [
        "ended before evaluation.when=epochs was set, and kept no models of epochs, so that what is evaluated has no "
        "curve: kl-125m-s0-a0.0-b1.0"
    ]
    assert not any("retrained" in text for text in said)


def test_epochs_that_were_asked_otherwise_are_left_out_and_named(tmp_path: Path) -> None:
    swept(tmp_path)
    paths = paths_of(tmp_path, ICU)
    evaluation, epochs = read_evaluation(paths), read_epoch_evaluations(paths)
    assert evaluation is not None
    write_evaluation(paths, replace(evaluation, tasks={"tofu_forget": "new"}))
    write_epoch_evaluations(paths, [replace(e, tasks={"tofu_forget": "old" if e.epoch < 3 else "new"}) for e in epochs])
    report = report_of(tmp_path)
    said = [finding.text for finding in report.findings]
    rows = list(csv.DictReader(io.StringIO(csv_tables(report)["epochs.csv"].decode("utf-8-sig"))))
    assert {row["epoch"] for row in rows} == {"0", "3", "4"}
    assert (
        "icu-125m-s0-a0.5-b1.0: asked otherwise after epoch 1, 2 than the trial's model, and left out; the models "
        "after epochs are gone" in said
    )


def test_without_the_key_nothing_is_said_or_drawn(tmp_path: Path) -> None:
    swept(tmp_path, None)
    write_epoch_evaluations(paths_of(tmp_path, ICU), [])
    report = report_of(tmp_path)
    assert not any("evaluat" in finding.text for finding in report.findings)
    assert evaluated_measures(report.blocks[0]) == () and "epochs.csv" not in csv_tables(report)
    assert any("its measures have no curve" in picture.caption for picture in pictures(report))


def test_where_an_earlier_epoch_was_left_its_own_evaluation_stands_there(tmp_path: Path) -> None:
    swept(tmp_path)
    paths = paths_of(tmp_path, ICU)
    result = read_result(paths)
    assert result is not None
    write_result(paths, replace(result, kept_epoch=2))
    add_epoch_evaluation(paths, EpochEvaluation(4, "h4", {}, metrics(-8.0, 0.1)))
    trial = next(trial for trial in collect([(str(tmp_path), "s")]).trials if trial.trial_id == ICU.trial_id)
    logs = [each["tofu/forget_quality_log10"] for each in trial.by_epoch.values()]
    assert list(trial.by_epoch) == [0, 1, 2, 3, 4] and logs == [-9.0, -7.0, -1.0, -3.0, -8.0]


@pytest.mark.slow
def test_mlflow_has_them_by_step(tmp_path: Path) -> None:
    swept(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sync_sweep(str(tmp_path), "s", uri, over=True)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    run = runs["icu-125m-s0-a0.5-b1.0"]

    def curve() -> list[tuple[int, float]]:
        history = client.get_metric_history(run.info.run_id, "epoch/tofu/forget_quality_log10")
        return sorted((point.step, point.value) for point in history)

    assert curve() == [(0, -9.0), (1, -7.0), (3, -3.0), (4, -1.0)]
    assert run.data.metrics["tofu/forget_quality_log10"] == -1.0
    assert not any(name.startswith("epoch/") for name in runs["kl-125m-s0-a0.0-b1.0"].data.metrics)
    # What comes later is added, and what is there is no second point.
    line = EpochEvaluation(2, "h2", {}, metrics(-5.0, 0.5))
    add_epoch_evaluation(paths_of(tmp_path, ICU), line)
    sync_sweep(str(tmp_path), "s", uri, over=True)
    assert curve() == [(0, -9.0), (1, -7.0), (2, -5.0), (3, -3.0), (4, -1.0)]
    assert sync_sweep(str(tmp_path), "s", uri, over=True) == 0
    # They are no metrics of the trial's own model.
    (tmp_path / "s").rename(tmp_path / "gone")
    trials = {trial.name: trial for trial in collect_tracked(uri, "s").collected.trials}
    assert "tofu/model_utility" in trials["icu-125m-s0-a0.5-b1.0"].metrics()
    assert not any(name.startswith("epoch/") for name in trials["icu-125m-s0-a0.5-b1.0"].metrics())
