"""What killed runs left is taken away by the next one, and what a trial goes on from is not.

Needs: nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icu_ray.cli.main import main as cli
from icu_ray.storage.files import join, list_dir, write_atomic
from icu_ray.storage.leftovers import remove_leftovers
from icu_ray.storage.results import Beat
from icu_ray.storage.trial_files import TrialPaths, read_beat, write_beat, write_result
from tests.storage.test_results import result
from tests.support.report_case import Cell, write_sweep

ROOT = Path(__file__).parents[2]
OF_A_TRIAL = ("checkpoint/checkpoint_2026/state", "error.txt", "model/config.json", "micro_batch.json")


@pytest.mark.parametrize("place", ["{}", "local://{}"])
@pytest.mark.parametrize(
    ("status", "kept"),
    [
        ("finished", {"model", "micro_batch.json", "result.json"}),
        ("not_forgotten", {"model", "micro_batch.json", "result.json"}),
        ("failed", {"checkpoint", "error.txt", "model", "micro_batch.json", "result.json"}),
        (None, {"checkpoint", "error.txt", "model", "micro_batch.json"}),
        ("another trial's", {"checkpoint", "error.txt", "model", "micro_batch.json", "result.json"}),
    ],
)
def test_a_trial_keeps_what_it_needs(tmp_path: Path, place: str, status: str | None, kept: set[str]) -> None:
    storage = place.format(tmp_path)
    paths = TrialPaths.of(storage, "s", "abc")
    for name in OF_A_TRIAL:
        write_atomic(join(paths.root, name), b"{}")
    if status is not None:
        known = result(status=status) if status != "another trial's" else result(trial_id="def")
        write_result(paths, known)
    remove_leftovers(storage, "s")
    assert set(list_dir(paths.root)) == kept


def test_what_was_not_written_to_its_end_is_removed(tmp_path: Path) -> None:
    write_result(TrialPaths.of(str(tmp_path), "s", "abc"), result())
    write_beat(str(tmp_path), "s", "running")
    trial = tmp_path / "s" / "trials" / "abc"
    (trial / ".model-x1").mkdir()
    (trial / ".model-x1" / "model.safetensors").write_text("half")
    (trial / ".events.jsonl.x1.tmp").write_text("half")
    (tmp_path / "s" / ".beat.json.x1.tmp").write_text("half")
    remove_leftovers(str(tmp_path), "s")
    assert [path.name for path in trial.iterdir()] == ["result.json"]
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"trials", "beat.json"}
    remove_leftovers(str(tmp_path), "never started")


def test_what_no_driver_will_end_is_removed_from_the_sweep(tmp_path: Path) -> None:
    """A lease half renewed or half taken, a clock that was read, a table and a page half written."""
    folder = tmp_path / "s"
    names = [".driver-3.json.x.tmp", ".driver-y/driver-4.json", ".clock-z.tmp", ".trials.csv.x.tmp"]
    names += ["report/.report.html.x.tmp", "logs/.icu-ray-writable-x/n", "trials/.icu-ray-writable-x/n"]
    kept = ["sweep.json", "driver-4.json", "trials.csv", "report/report.html", "logs/driver.log"]
    for name in (*names, *kept):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()

    def there() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    remove_leftovers(str(tmp_path), "s")
    assert there() == {*names, *kept}  # a driver that waits, or 'icu-ray report', may be at them
    for path in folder.rglob(".*"):
        os.utime(path, (0, time.time() - 1000))
    remove_leftovers(str(tmp_path), "s")
    assert there() == set(kept) and not list(folder.rglob(".*"))


def test_a_clock_that_was_read_is_removed_from_a_bucket(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for name, age in ((".clock-old.tmp", 1000), (".clock-new.tmp", 0), ("sweep.json", 0)):
        (folder / name).touch()
        os.utime(folder / name, (0, time.time() - age))
    remove_leftovers(f"local://{tmp_path}", "s")
    assert {path.name for path in folder.iterdir()} == {".clock-new.tmp", "sweep.json"}
    remove_leftovers(f"local://{tmp_path}", "never started")


def test_a_driver_that_was_killed_here_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path, "run", [Cell(status="running")])
    code = f"from icu_ray.storage.trial_files import write_beat; write_beat({str(tmp_path)!r}, 'run', 'running')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    beat = read_beat(str(tmp_path), "run")
    assert beat is not None and beat.state_at(time.time()) == "interrupted"
    assert cli(["status", str(folder)]) == 0
    assert "run: interrupted or killed; run the same command again to continue" in capsys.readouterr().out
    write_beat(str(tmp_path), "run", "running")  # this process, which lives
    assert cli(["status", str(folder)]) == 0
    assert "interrupted" not in capsys.readouterr().out
    # One of another machine may live as long as it is heard of, with whatever clock.
    for seconds, state in ((0, "running"), (-1000, "interrupted"), (1000, "interrupted")):
        assert Beat(time.time() + seconds, "running", "elsewhere-1-1").state_at(time.time()) == state
