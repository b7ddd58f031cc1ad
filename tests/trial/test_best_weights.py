"""The file with the weights of a trial's best epoch, in a local folder and behind a URL.

Needs: nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from icu_ray.storage.files import list_dir, write_atomic
from icu_ray.storage.folders import remove
from icu_ray.storage.leftovers import remove_leftovers
from icu_ray.storage.results import TrialResult
from icu_ray.storage.trial_files import TrialPaths, write_result
from icu_ray.trial.best_weights import drop_weights, keep_weights, kept_weights


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def writing(content: bytes) -> Callable[[Path], None]:
    def save(file: Path) -> None:
        file.write_bytes(content)

    return save


def read(paths: TrialPaths, epoch: int) -> bytes | None:
    with kept_weights(paths, epoch) as file:
        return None if file is None else file.read_bytes()


def test_the_best_weights_are_kept_until_better_ones_are(storage: str) -> None:
    paths = TrialPaths.of(storage, "sweep", "i")
    write_atomic(paths.events, b"")
    assert read(paths, 1) is None
    for epoch in (1, 12):
        keep_weights(paths, epoch, writing(b"%d" % epoch), 0)
    assert (read(paths, 1), read(paths, 12)) == (b"1", b"12")
    keep_weights(paths, 12, writing(b"again"), 0)
    drop_weights(paths, but=12)
    assert (read(paths, 1), read(paths, 12)) == (None, b"again")
    keep_weights(paths, 13, lambda file: None, 1)  # another rank: it takes part in saving, and writes nothing
    assert read(paths, 13) is None
    # What is not what was written is taken for gone; an earlier version wrote no sum.
    write_atomic(paths.best(12), b"other")
    assert read(paths, 12) is None
    remove(f"{paths.best(12)}.sha256")
    assert read(paths, 12) == b"other"
    drop_weights(paths)
    assert list_dir(paths.root) == ["events.jsonl"]


def test_a_driver_removes_those_of_trials_that_are_over(storage: str) -> None:
    over, under_way = (TrialPaths.of(storage, "sweep", name) for name in ("over", "on"))
    for paths in (over, under_way):
        write_atomic(paths.events, b"")
        keep_weights(paths, 3, writing(b"3"), 0)
    write_result(over, TrialResult("over", "n", "m", "icu", 0, {}, "not_forgotten", "", 3, None, None, {}))
    remove_leftovers(storage, "sweep")
    assert read(over, 3) is None and read(under_way, 3) == b"3"
