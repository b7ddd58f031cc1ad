"""The figure of every measure by epoch.

Needs: nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.report.collect import collect
from icu_ray.report.contents import Report, make_report
from icu_ray.report.figures.epochs import epoch_measures, every_measure
from icu_ray.report.figures.pictures import pictures
from icu_ray.report.figures.theme import LIGHT, render
from icu_ray.storage.trial_files import TrialPaths, read_events, write_events
from tests.support.report_case import Cell, write_sweep

GOLD = Cell("retrained", "retrained", 0.0, 0.0, final=(0.3, 0.01, 21.0, 4.0), epochs=0)
CELLS = [Cell(), Cell("kl", "kl", 0.0, 1.0, sample=1, epochs=2, final=(0.4, 0.0, 900.0, 3.0)), GOLD]


def report_of(storage: Path, cells: list[Cell] = CELLS) -> Report:
    folder = write_sweep(storage, "s", cells)
    return make_report(collect([(str(storage), folder.name)]))


def test_every_measure_of_the_epochs_has_a_panel_with_a_line_a_trial(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    (block,) = report.blocks
    names = [measure.heading for measure in epoch_measures(block)]
    assert names == [
        *("MA (%)", "EL10 (%)", "forget loss", "BERTScore F1 (%)", "BLEU (%)", "entropy (bits)"),
        *("distinct tokens (%)", "held-out perplexity", "loss: forget"),
    ]
    axes = {axis.get_title(): axis for axis in every_measure(block, report, LIGHT).axes if axis.get_visible()}
    assert list(axes) == names
    lines = {line.get_label(): line for line in axes["MA (%)"].lines}
    assert list(lines) == ["kl (–, 1)", "icu (0.5, 1)", "original", "retrained"]
    assert list(lines["icu (0.5, 1)"].get_ydata()) == pytest.approx([95.0, 85.0, 75.0, 65.0, 55.0])
    assert list(lines["kl (–, 1)"].get_xdata()) == [0, 1, 2]
    assert list(lines["original"].get_ydata()) == pytest.approx([95.0, 95.0])
    assert list(lines["retrained"].get_ydata()) == pytest.approx([30.0, 30.0])
    # A term of the loss has neither an epoch 0 nor another model's value.
    terms = {line.get_label(): list(line.get_ydata()) for line in axes["loss: forget"].lines}
    assert terms == {"kl (–, 1)": [-0.5, -1.0], "icu (0.5, 1)": [-0.25, -0.5, -0.75, -1.0]}
    assert axes["held-out perplexity"].get_yscale() == "log" and axes["MA (%)"].get_yscale() == "linear"


def test_the_picture_is_one_a_model_and_says_what_it_lacks(tmp_path: Path) -> None:
    cells = [*CELLS, Cell(model="1.3b"), Cell(model="not-started", status=None)]
    found = {picture.name: picture for picture in pictures(report_of(tmp_path, cells))}
    own = [name for name in found if name.startswith("epochs-")]
    assert own == ["epochs-125m", "epochs-1-3b"]
    picture = found["epochs-125m"]
    assert "held-out perplexity" in picture.alt and "its measures have no curve" in picture.caption
    assert render(picture.draw, LIGHT)["png"].startswith(b"\x89PNG")


def test_values_that_were_not_measured_leave_no_point(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "s", CELLS)
    paths = TrialPaths.of(str(tmp_path), folder.name, CELLS[0].trial_id)
    history = read_events(paths)
    write_events(
        paths,
        [replace(r, scores=replace(r.scores, bleu=None, ma=None if r.epoch == 2 else 0.5)) for r in history],
    )
    report = make_report(collect([(str(tmp_path), "s")]))
    axes = {axis.get_title(): axis for axis in every_measure(report.blocks[0], report, LIGHT).axes}
    lines = {line.get_label(): list(line.get_xdata()) for line in axes["MA (%)"].lines}
    assert lines["icu (0.5, 1)"] == [0, 1, 3, 4]
    assert "icu (0.5, 1)" not in {line.get_label() for line in axes["BLEU (%)"].lines}
