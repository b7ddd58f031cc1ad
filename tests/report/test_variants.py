"""Rows are set apart by what their trials were told: a method's own settings, its learning rate, its texts.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.report.collect import ReportedTrial, collect
from icu_ray.report.numbers.rows import Block, make_blocks
from icu_ray.report.numbers.variants import variants_of
from tests.support.report_case import Cell, write_sweep


def block(folder: Path, cells: list[Cell]) -> Block:
    write_sweep(folder, "s", cells)
    (found,) = make_blocks(collect([(str(folder), "s")]))
    return found


def test_entries_of_one_method_with_other_settings_are_never_averaged(tmp_path: Path) -> None:
    cells = [
        Cell("npo", "npo", sample=sample, own=own, final=(ma + sample / 50, 0.04, 24.0, 3.8))
        for own, ma in (((), 0.50), ((("beta_npo", 0.5),), 0.56))
        for sample in (0, 1)
    ]
    rows = block(tmp_path, cells).methods
    assert [(row.name, len(row.trials)) for row in rows] == [("npo", 2), ("npo [beta_npo=0.5]", 2)]
    means = [row.values["ma"] for row in rows]
    assert [None if each is None else (each.mean, each.n) for each in means] == [
        (pytest.approx(51.0), 2),
        (pytest.approx(57.0), 2),
    ]


def test_six_cells_of_a_method_without_weights_are_six_rows(tmp_path: Path) -> None:
    told = [(("scale", scale), ("lr", lr)) for scale in (1.0, 2.0, 4.0) for lr in (5e-4, 2e-3)]
    cells = [Cell("task_vector", "task_vector", own=own, lr=float(own[1][1])) for own in told]
    found = block(tmp_path, [*cells, Cell(lr=5e-4)])
    names = [row.name for row in found.methods]
    assert len(set(names)) == len(names) == 7
    assert "task_vector [lr=0.002, scale=4.0]" in names
    assert names[-1] == "icu (0.5, 1) [optim.lr=0.0005]"  # what it is not told sets it apart from nothing


def trial(number: int, sample: int, settings: dict[str, Any], label: str = "altpo") -> ReportedTrial:
    return ReportedTrial("s", f"t{number}", "", "small", label, sample, {}, "finished", settings=settings)


def test_the_texts_of_another_sample_are_no_other_setting() -> None:
    """Second answers and given pairs belong to the targets, so every forget sample has others."""
    told = {sample: {"answers": {"from": "alternates", "texts": f"hash{sample}"}} for sample in (0, 1)}
    assert variants_of([trial(sample, sample, settings) for sample, settings in told.items()]) == {"t0": "", "t1": ""}
    # Of one sample they are: another file.
    other = {"answers": {"from": "alternates", "texts": "hash2"}}
    found = variants_of([trial(0, 0, told[0]), trial(1, 0, other), trial(2, 1, told[1])])
    assert found == {"t0": "answers.texts=hash0", "t1": "answers.texts=hash2", "t2": "answers.texts=hash1"}


def test_another_methods_rules_are_named_in_no_other_row() -> None:
    usual = {"stop": {"rule": "and"}, "filter": {"rule": "bertscore"}, "optim": {"lr": 1e-4}}
    own = {"stop": {"rule": "epochs"}, "filter": {"rule": "never"}, "optim": {"lr": 1e-4, "schedule": "cosine"}}
    trials = [trial(0, 0, usual, "icu"), trial(1, 0, usual, "npo"), trial(2, 0, own, "task_vector")]
    assert set(variants_of(trials).values()) == {""}
    # Learning rates are: whoever compares methods has to know them.
    faster = {**usual, "optim": {"lr": 5e-4}}
    found = variants_of([*trials, trial(3, 0, faster, "dpo")])
    assert found == {"t0": "optim.lr=0.0001", "t1": "optim.lr=0.0001", "t2": "optim.lr=0.0001", "t3": "optim.lr=0.0005"}


def test_a_trial_without_settings_sets_nothing_apart() -> None:
    assert variants_of([trial(0, 0, {}), trial(1, 0, {"optim": {"lr": 1e-4}})]) == {"t0": "", "t1": ""}


VALUES = st.sampled_from([0.5, 1.0, "nll", None])


@given(st.lists(st.tuples(VALUES, VALUES, VALUES, st.sampled_from(["npo", "wga"])), max_size=8))
def test_rows_of_one_name_were_told_the_same(told: list[tuple[Any, Any, Any, str]]) -> None:
    """None: left out. Whatever differs within a label is in the name."""
    trials = []
    for number, (beta, retain, ma, label) in enumerate(told):
        own = {key: value for key, value in (("beta", beta), ("retain", retain)) if value is not None}
        settings: dict[str, Any] = {"method": {"name": "npo", "alpha": 0.5, "settings": own}, "stop": {"ma": ma}}
        trials.append(trial(number, 0, settings, label))
    found = variants_of(trials)
    for one in trials:
        for other in trials:
            if one.method == other.method and one.settings != other.settings:
                assert found[one.trial_id] != found[other.trial_id]
