"""A trial goes on from its own checkpoint alone.

Needs: nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from icu_ray.storage.trial_files import TrialPaths
from icu_ray.training.checkpoints import STATE_FILE
from icu_ray.trial.checkpoints import TRIAL_FILE, newest_checkpoint


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
