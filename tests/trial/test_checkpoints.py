"""A trial goes on from its own checkpoint alone, and leaves a whole model and nothing else.

Needs: nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from icu_ray.config import ModelConfig
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.loading import LoadedModel
from icu_ray.storage.trial_files import TrialPaths
from icu_ray.training.checkpoints import STATE_FILE
from icu_ray.trial.checkpoints import TRIAL_FILE, newest_checkpoint
from icu_ray.trial.out_of_memory import halve_micro_batch, read_micro_batch
from icu_ray.trial.saved_models import save_model
from icu_ray.trial.worker import _is_first_attempt
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer, trial_settings


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


def test_what_a_trial_took_is_known_of_its_first_attempt_alone(tmp_path: Path) -> None:
    """The time before the epochs of a later one holds what was lost before."""
    for trial, left in (("a", "events"), ("b", "micro_batch")):
        paths = TrialPaths.of(str(tmp_path), "s", trial)
        os.makedirs(paths.root)
        assert _is_first_attempt(paths)
        Path(getattr(paths, left)).write_text("{}\n")
        assert not _is_first_attempt(paths)


@pytest.mark.parametrize("place", ["{}", "local://{}"])
def test_a_saved_model_is_whole_and_a_killed_save_leaves_nothing(tmp_path: Path, place: str) -> None:
    paths = TrialPaths.of(place.format(tmp_path), "s", "abc")
    folder = tmp_path / "s" / "trials" / "abc"
    (folder / ".model-left").mkdir(parents=True)
    (folder / "model").mkdir()
    loaded = LoadedModel(tiny_model("gpt_neo"), tokenizer(), tmp_path)
    assert save_model(loaded, paths, ModelConfig(name="m", source="m")) == folder_fingerprint(folder / "model")
    left = {path.name for path in folder.iterdir()}
    assert left == ({"model"} if "://" not in place else {"model", ".model-left"})


def test_the_smaller_micro_batch_of_another_trial_or_of_a_damaged_file_is_not_taken(tmp_path: Path) -> None:
    paths = TrialPaths.of(str(tmp_path), "s", "abc")
    assert read_micro_batch(paths) is None
    halve_micro_batch(paths, trial_settings(batch_size=8, micro_batch=None), 1, MemoryError())
    assert read_micro_batch(paths) == 4
    earlier = '{"micro_batch": 2, "was": 4, "error": ""}'  # of a version that did not write whose it is
    others = ('{"trial_id": "def", "micro_batch": 2}', "", "{", "[]", '{"micro_batch": "two"}', '{"micro_batch": null}')
    for text, wanted in ((earlier, 2), *((text, None) for text in others)):
        Path(paths.micro_batch).write_text(text)
        assert read_micro_batch(paths) == wanted
