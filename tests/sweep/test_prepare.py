"""What trials share is made once: S or 1 times for S samples x C cells, and not at all the second time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil

from icu_ray.config.file import resolve_config
from icu_ray.console.progress import Step
from icu_ray.data.sources import check_data
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.sweep.prepare import prepare

SAMPLES, CELLS = 2, 4


def plan_of(storage: Path, **changes: object) -> Plan:
    tree = {
        "name": "t",
        "storage": str(storage),
        "data": {"source": "synthetic", "records": 40, "sample_size": 4, "heldout": 4},
        "samples": list(range(SAMPLES)),
        "columns": {"length": 48, "prefix_start": 16, "suffix_start": 32},
        "models": [{"name": "small", "standin": {"size": "small", "vocabulary": 500, "target_repeats": 8}}],
        "methods": [{"name": "icu", "alpha": [0.5, 1.0], "beta": [0.5, 1.0]}],
        "el": {"ngram": 5},
        "pairs": {"encoder": "bundled"},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
    }
    config = resolve_config({**tree, **changes}, "test")
    return make_plan(config, check_data(config))


def test_a_grid_shares_what_it_can(ray_cluster: None, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert len(plan.trials) == SAMPLES * CELLS
    steps: list[Step] = []
    prepared = prepare(plan, str(tmp_path / "store"), steps.append)
    assert not prepared.failures
    made = Counter(record.kind for record in prepared.records if record.made)
    # rows: targets and pairs of each sample, and the held-out rows of all.
    expected = {"models": 1, "heads": 1, "embeddings": 1, "pairs": SAMPLES, "references": SAMPLES, "before": SAMPLES}
    assert made == {**expected, "rows": 2 * SAMPLES + 1}
    assert sorted(prepared.artefacts) == [("small", 0), ("small", 1)]
    assert any(step.name == "stand-in small" and step.part and 0 < step.part < 1 for step in steps)
    stages = {name: {step.stage for step in steps if step.name == name} for name in ("pairs", "small, sample 1")}
    assert stages["pairs"] >= {"embedding", "searching"}
    assert stages["small, sample 1"] >= {"loading the model", "reference", "MA and EL", "candidates", "BERTScore"}
    assert all(step.part is None or 0 <= step.part < 1 for step in steps if step.stage)

    again = prepare(plan, str(tmp_path / "store"))
    assert not any(record.made for record in again.records)
    assert again.artefacts == prepared.artefacts


def test_what_cannot_be_made_fails_the_trials_that_need_it_alone(ray_cluster: None, tmp_path: Path) -> None:
    # The second stand-in has one epoch to learn everything in, which no model can.
    small = {"size": "small", "vocabulary": 500, "target_repeats": 8}
    models = [{"name": "able", "standin": small}, {"name": "hopeless", "standin": {**small, "max_epochs": 1}}]
    prepared = prepare(plan_of(tmp_path, models=models, samples=[0]), str(tmp_path / "store"))
    assert sorted(prepared.artefacts) == [("able", 0)]
    assert sorted(prepared.failures) == [("hopeless", 0)]
    assert "standin.max_epochs=1" in prepared.failures["hopeless", 0]
    assert prepared.failures["hopeless", 0].startswith("preparation: ")


def test_gradient_ascent_needs_neither_pairs_nor_a_reference(ray_cluster: None, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, methods=[{"name": "icu", "cells": [[0, 0]]}], samples=[0])
    prepared = prepare(plan, str(tmp_path / "store"))
    assert {record.kind for record in prepared.records} == {"models", "rows", "before"}
    assert prepared.artefacts["small", 0].reference is None


def test_pieces_whose_worker_dies_are_done_again(ray_cluster: None, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, samples=[0])
    undisturbed = prepare(plan, str(tmp_path / "whole"))
    tasks = {"stand-in small": "standin_task", "pairs": "pairs_task", "small, sample 0": "artefacts_task"}
    killed: dict[str, int] = {}

    def kill_once(step: Step) -> None:
        name = tasks.get(step.name)
        # Late, when part of the piece lies in the store: the second time there is less to do, and to tell.
        if name is not None and name not in killed and step.text.split()[0] in ("epoch", "searching", "candidates"):
            ours = psutil.Process().children(recursive=True)
            (worker,) = [each for each in ours if "".join(each.cmdline()).startswith(f"ray::{name}")]
            killed[name] = worker.pid
            worker.kill()

    prepared = prepare(plan, str(tmp_path / "store"), kill_once)
    assert sorted(killed) == sorted(tasks.values())
    assert not prepared.failures
    assert prepared.artefacts == undisturbed.artefacts
    again = prepare(plan, str(tmp_path / "store"))
    assert not any(record.made for record in again.records)
