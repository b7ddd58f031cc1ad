"""The models of a trial's epochs and what was evaluated of them, in a local folder and behind a URL.

Needs: nothing.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.errors import UserError
from icu_ray.storage.epoch_evaluations import EpochEvaluation, by_epoch
from icu_ray.storage.epoch_files import (
    add_epoch_evaluation,
    drop_epoch_model,
    epoch_evaluations,
    epoch_model,
    kept_epochs,
    kept_hash,
    mark_whole,
    read_epoch_evaluations,
)
from icu_ray.storage.files import join, list_dir, write_atomic
from icu_ray.storage.leftovers import remove_leftovers
from icu_ray.storage.results import TrialEvaluation
from icu_ray.storage.trial_files import TrialPaths


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def keep(paths: TrialPaths, epoch: int, whole: bool = True) -> None:
    write_atomic(join(epoch_model(paths, epoch), "config.json"), b"{}")
    if whole:
        mark_whole(paths, epoch, f"hash {epoch}")


def line(epoch: int, value: float | None = 0.5) -> EpochEvaluation:
    return EpochEvaluation(epoch, f"hash {epoch}", {"wow": "t"}, {"dialogue/wow_f1": value})


def test_models_are_there_until_they_are_dropped(storage: str) -> None:
    paths = TrialPaths.of(storage, "sweep", "i")
    assert kept_epochs(paths) == {} and kept_hash(paths, 1) is None
    for epoch in (12, 2):
        keep(paths, epoch)
    keep(paths, 3, whole=False)
    add_epoch_evaluation(paths, line(1))
    assert list(kept_epochs(paths).items()) == [(2, "hash 2"), (12, "hash 12")]
    drop_epoch_model(paths, 2)
    drop_epoch_model(paths, 2)
    assert kept_epochs(paths) == {12: "hash 12"}
    # The driver takes away what is not whole, and all of it where no epoch is to be evaluated any more.
    remove_leftovers(storage, "sweep", epochs=True)
    assert list_dir(paths.epochs) == ["12", "12.sha256", "evaluations.jsonl"]
    remove_leftovers(storage, "sweep")
    assert list_dir(paths.epochs) == ["evaluations.jsonl"] and read_epoch_evaluations(paths) == (line(1),)


def test_an_epoch_has_one_line(storage: str) -> None:
    paths = TrialPaths.of(storage, "sweep", "i")
    assert read_epoch_evaluations(paths) == ()
    for each in (line(3), line(10), line(1), line(3, None)):
        add_epoch_evaluation(paths, each)
    assert read_epoch_evaluations(paths) == (line(1), line(3, None), line(10))
    other = TrialPaths.of(storage, "sweep", "j")
    write_atomic(epoch_evaluations(other), b'{"trial_id": "i", "epoch": 1}\n')
    with pytest.raises(UserError, match="is of trial 'i', expected j"):
        read_epoch_evaluations(other)


@given(st.sets(st.integers(1, 30)), st.integers(1, 30), st.booleans())
def test_a_curve_begins_with_the_original_and_has_what_the_trial_left(epochs: set[int], left: int, over: bool) -> None:
    own = TrialEvaluation({}, ("", ""), {"m": 0.0}, {"m": 1.0})
    lines = [EpochEvaluation(epoch, "", {}, {"m": epoch / 100}) for epoch in epochs]
    found = by_epoch(own, lines, left if over else None)
    # Without the model of any epoch there is no curve, not one of two points.
    assert set(found) == ({0, *epochs} | ({left} if over else set()) if epochs else set())
    assert list(found) == sorted(found)
    assert all(found[epoch]["m"] == epoch / 100 for epoch in epochs - ({left} if over else set()))
    if epochs:
        assert found[0]["m"] == 0.0 and (not over or found[left]["m"] == 1.0)
    assert set(by_epoch(None, lines, left)) == epochs
