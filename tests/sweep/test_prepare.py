"""What trials share is made once: S or 1 times for S samples x C cells, and not at all the second time.

Needs: one Ray.
"""

from __future__ import annotations

import functools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from icu_ray.config.file import resolve_config
from icu_ray.console.progress import Step
from icu_ray.data.sources import check_data
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.storage.store import Store
from icu_ray.sweep.prepare import prepare
from icu_ray.training.trained_epochs import trained_epochs
from icu_ray.training.validation import Validation
from icu_ray.trial.artefacts import get_artefact
from tests.support.trained import lent

SAMPLES, CELLS = 2, 4
LAST = ("models", "pairs", "before")
"""What each of the preparation's tasks (stand-in, pairs, measuring the original) makes last."""


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


@pytest.mark.slow
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
    built = [step for step in steps if step.name == "stand-in small"]
    assert any(step.part and 0 < step.part < 1 for step in built)
    assert any(", EL10 " in step.text for step in built) and not any("EL " in step.text for step in built)
    stages = {name: {step.stage for step in steps if step.name == name} for name in ("pairs", "small, sample 1")}
    assert stages["pairs"] >= {"embedding", "searching"}
    assert stages["small, sample 1"] >= {"loading the model", "reference", "MA and EL", "candidates", "BERTScore"}
    assert all(step.part is None or 0 <= step.part < 1 for step in steps if step.stage)

    again = prepare(plan, str(tmp_path / "store"))
    assert not any(record.made for record in again.records)
    assert again.artefacts == prepared.artefacts


@pytest.mark.slow
def test_what_cannot_be_made_fails_the_trials_that_need_it_alone(
    ray_cluster: None, tmp_path: Path, trained: Path
) -> None:
    # The second stand-in has one epoch to learn everything in, which no model can.
    small = {"size": "small", "vocabulary": 500, "target_repeats": 8}
    models = [{"name": "able", "standin": small}, {"name": "hopeless", "standin": {**small, "max_epochs": 1}}]
    with lent(trained, tmp_path / "store"):
        prepared = prepare(plan_of(tmp_path, models=models, samples=[0]), str(tmp_path / "store"))
    assert sorted(prepared.artefacts) == [("able", 0)]
    assert sorted(prepared.failures) == [("hopeless", 0)]
    assert "standin.max_epochs=1" in prepared.failures["hopeless", 0]
    assert prepared.failures["hopeless", 0].startswith("preparation: ")


def test_gradient_ascent_needs_neither_pairs_nor_a_reference(ray_cluster: None, tmp_path: Path, trained: Path) -> None:
    plan = plan_of(tmp_path, methods=[{"name": "icu", "cells": [[0, 0]]}], samples=[0])
    with lent(trained, tmp_path / "store"):
        prepared = prepare(plan, str(tmp_path / "store"))
    assert {record.kind for record in prepared.records} == {"models", "rows", "before"}
    assert prepared.artefacts["small", 0].reference is None


def test_random_pairs_are_drawn_for_each_seed_without_an_encoder(
    ray_cluster: None, tmp_path: Path, trained: Path
) -> None:
    pairs = {"by": "random", "resample": "never", "encoder": "/nowhere"}
    plan = plan_of(tmp_path, samples=[0], seeds=[3, 8], pairs=pairs, methods=[{"name": "icu", "cells": [[1.0, 1.0]]}])
    steps: list[Step] = []
    with lent(trained, tmp_path / "store"):
        prepared = prepare(plan, str(tmp_path / "store"), steps.append)
    assert not prepared.failures
    made = Counter(record.kind for record in prepared.records if record.made)
    assert made["pairs"] == 2 and made["rows"] == 3 and made["references"] == 1 and "embeddings" not in made
    draws = prepared.artefacts["small", 0].draws
    assert draws is not None and sorted(draws.overlap) == [3, 8] and prepared.artefacts["small", 0].pair_overlap is None
    assert {len(overlap) for overlap in draws.overlap.values()} == {4}
    assert any(step.name == "pairs" and "of 8 pairs repeat their target" in step.text for step in steps)


@pytest.mark.slow
def test_the_gold_standard_is_made_once_a_sample_with_the_models_tokens_and_epochs(
    ray_cluster: None, tmp_path: Path, trained: Path
) -> None:
    small = {"size": "small", "vocabulary": 500, "target_repeats": 8}
    models = [{"name": "small", "standin": small, "retrained": True}]
    plan = plan_of(tmp_path, models=models, methods=[{"name": "icu", "cells": [[0, 0]]}])
    with lent(trained, tmp_path / "store"):
        prepared = prepare(plan, str(tmp_path / "store"))
    assert not prepared.failures and not prepared.not_retrained
    assert sorted(prepared.retrained) == [("small", 0), ("small", 1)]
    store = Store(str(tmp_path / "store"))
    original = get_artefact(store, "models", prepared.artefacts["small", 0].model or {})
    for sample in range(SAMPLES):
        gold = prepared.retrained["small", sample]
        folder = get_artefact(store, "models", gold.model)
        assert trained_epochs(folder) == trained_epochs(original)
        assert (folder / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()
        assert folder_fingerprint(folder) != folder_fingerprint(original)
        before = Validation.load(get_artefact(store, "before", prepared.artefacts["small", sample].before))
        after = Validation.load(get_artefact(store, "before", gold.scores))
        assert (before.ma > after.ma + 0.3).all()  # it knows no text of its sample
    again = prepare(plan, str(tmp_path / "store"))
    assert again.retrained == prepared.retrained and not any(record.made for record in again.records)


def killed_once(task: Callable[..., Iterator[Any]], died: Path) -> Callable[..., Iterator[Any]]:
    """A task whose worker is killed the first time, with all but its last artefact in the store: that one is made and
    not yet kept. So there is less to do the second time, and to tell. died: gets a file of each kind's name."""

    @functools.wraps(task)
    def deadly(*arguments: Any) -> Iterator[Any]:
        from icu_ray.storage.store import Store

        whole = Store.get_or_make

        def get_or_make(store: Store, kind: str, key: Any, make: Callable[[Path], None]) -> Path:
            def made_and_dead(folder: Path) -> None:
                make(folder)
                if kind in LAST and not (died / kind).exists():
                    (died / kind).touch()
                    os.kill(os.getpid(), signal.SIGKILL)

            return whole(store, kind, key, made_and_dead)

        Store.get_or_make = get_or_make  # type: ignore[method-assign]
        try:
            yield from task(*arguments)
        finally:
            Store.get_or_make = whole  # type: ignore[method-assign]

    return deadly


@pytest.mark.slow
def test_pieces_whose_worker_dies_are_done_again(ray_cluster: None, tmp_path: Path, trained: Path) -> None:
    plan = plan_of(tmp_path, samples=[0])
    with lent(trained, tmp_path / "whole"):
        undisturbed = prepare(plan, str(tmp_path / "whole"))
    died, remote = tmp_path / "died", ray.remote
    died.mkdir()
    steps: list[Step] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "remote", lambda **options: lambda task: remote(**options)(killed_once(task, died)))
        prepared = prepare(plan, str(tmp_path / "store"), steps.append)
    assert sorted(path.name for path in died.iterdir()) == sorted(LAST)
    assert len([step for step in steps if "its worker died" in step.text]) == len(LAST)
    assert not prepared.failures
    assert prepared.artefacts == undisturbed.artefacts
    again = prepare(plan, str(tmp_path / "store"))
    assert not any(record.made for record in again.records)
