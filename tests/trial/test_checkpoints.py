"""A trial goes on from its own checkpoint alone, and leaves a whole model and nothing else.

Needs: nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.loading import LoadedModel
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.training.checkpoints import STATE_FILE
from icu_ray.trial.checkpoints import TRIAL_FILE, newest_checkpoint
from icu_ray.trial.worker import _save_model
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer


def write_checkpoint(paths: TrialPaths, name: str, trial: str | None) -> Path:
    folder = Path(paths.checkpoint) / name
    os.makedirs(folder)
    state = {"format": 1, "epoch": 1, "active": [True], "history": [], "world_size": 1, "zero_stage": 0}
    (folder / STATE_FILE).write_text(json.dumps(state))
    (folder / "manifest.json").write_text("{}")
    if trial is not None:
        (folder / TRIAL_FILE).write_text(trial)
    return folder


@pytest.mark.parametrize("own", ["abc", None])
def test_another_trial_s_checkpoint_is_not_gone_on_from(tmp_path: Path, own: str | None) -> None:
    paths = TrialPaths.of(str(tmp_path), "s", "abc")
    with newest_checkpoint(paths) as found:
        assert found is None
    mine = write_checkpoint(paths, "checkpoint_2026-01-01", own)  # earlier versions did not write whose it is
    write_checkpoint(paths, "checkpoint_2026-01-02", "def")
    with newest_checkpoint(paths) as found:
        assert found == mine


@pytest.mark.parametrize("place", ["{}", "local://{}"])
def test_a_saved_model_is_whole_and_a_killed_save_leaves_nothing(tmp_path: Path, place: str) -> None:
    paths = TrialPaths.of(place.format(tmp_path), "s", "abc")
    folder = tmp_path / "s" / "trials" / "abc"
    (folder / ".model-left").mkdir(parents=True)
    (folder / "model").mkdir()
    loaded = LoadedModel(tiny_model("gpt_neo"), tokenizer(), tmp_path)
    assert _save_model(loaded, paths) == folder_fingerprint(folder / "model")
    left = {path.name for path in folder.iterdir()}
    assert left == ({"model"} if "://" not in place else {"model", ".model-left"})
