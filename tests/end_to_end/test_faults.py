"""Faults injected for real into small sweeps: each trial ends with the numbers of the one that nothing happened to.

docs/faults.md is the table of them.

Needs: Rays of its own; root and a tmpfs for some of its tests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from icu_ray.report.tracking.tracker import tracking_uri
from icu_ray.storage.files import write_atomic
from icu_ray.storage.results import EpochRecord, Scores, TrialResult, to_json
from icu_ray.storage.retry import RETRY_VARIABLE, with_retries
from icu_ray.storage.trial_files import TrialPaths, read_events, write_events
from icu_ray.sweep.lease import Holder, Lease
from icu_ray.trial.checkpoints import check_room, scratch_folder, sign_of_progress
from icu_ray.trial.watchdog import Watchdog
from tests.support.faults_case import ROOT, STANDIN, Sweep, alive, method, processes_of, same
from tests.support.ray_head import ray_head
from tests.support.sqlite_lock import locked
from tests.support.trained import lent

QUIET = "tracking.enabled=false"
FAULTS = ("hang", "worker", "memory", "hopeless", "none")


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> tuple[Sweep, int, str]:
    """A sweep with a fault in every trial but one: it, its exit code and what it said."""
    sweep = Sweep(
        tmp_path_factory.mktemp("storm"),
        (*(method(fault) for fault in FAULTS), "{name: icu, label: wild, cells: [[0.5, 1.0]], models: [wild]}"),
        (f"{{name: small, {STANDIN}}}", f"{{name: wild, {STANDIN}, lr: 1.0e+30}}"),
    )
    with lent(trained, sweep.disk / "store"):
        return _through_the_storm(sweep)


def _through_the_storm(sweep: Sweep) -> tuple[Sweep, int, str]:
    driver = sweep.start("resources.epoch_minutes=0.75")
    worker = sweep.reached("worker", driver)
    with locked(Path(sweep.storage) / "mlflow.db"):  # training goes on, and what MLflow lacks is sent afterwards
        before = sum(len(sweep.calls(fault)) for fault in FAULTS)
        os.kill(worker, signal.SIGKILL)
        driver.wait_for(lambda: sum(len(sweep.calls(fault)) for fault in FAULTS) > before + 2)
    sweep.go("worker")
    return sweep, driver.end(), driver.output


@pytest.fixture(scope="module")
def calm(storm: tuple[Sweep, int, str]) -> TrialResult:
    """The trial that nothing happened to."""
    result = storm[0].results()["none"]
    assert result.status in ("finished", "not_forgotten"), result.reason
    assert result.epochs >= 4  # or the faults came too late
    return result


def redone(sweep: Sweep, fault: str) -> int:
    """Losses of a trial that were computed more than once, or in vain."""
    return len(sweep.calls(fault)) - sum(sweep.steps(fault))


@pytest.mark.slow
def test_every_trial_of_the_storm_is_told(storm: tuple[Sweep, int, str], calm: TrialResult) -> None:
    sweep, code, output = storm
    results = sweep.results()
    assert set(results) == {*FAULTS, "wild"}, output
    assert {fault for fault, result in results.items() if result.status == "failed"} == {"hopeless", "wild"}
    assert code == 1
    assert redone(sweep, "none") == 0 and len(set(sweep.calls("none"))) == 1
    again = {line.split()[1].rstrip(":") for line in output.splitlines() if line.startswith("again")}
    assert again == {f"{fault}-small-s0-a0.5-b1.0" for fault in ("hang", "worker", "memory", "hopeless")}


@pytest.mark.slow
def test_mlflow_has_every_epoch_once_though_its_database_was_locked(storm: tuple[Sweep, int, str]) -> None:
    from mlflow import MlflowClient

    sweep, _, output = storm
    client = MlflowClient(tracking_uri(sweep.storage))
    experiment = client.get_experiment_by_name("t")
    assert experiment is not None and "MLflow did not answer" not in output
    found = {run.data.tags.get("icu_ray.trial_id"): run for run in client.search_runs([experiment.experiment_id])}
    assert len(found) == len(FAULTS) + 2  # the sweep's own
    for fault, result in sweep.results().items():
        run = found[result.trial_id]
        points = client.get_metric_history(run.info.run_id, "active_samples")
        told = [(record.epoch, float(record.active)) for record in read_events(sweep.paths()[fault])]
        assert [(point.step, point.value) for point in points] == told
        assert run.data.tags["status"] == result.status


@pytest.mark.slow
def test_a_killed_worker_is_replaced(storm: tuple[Sweep, int, str], calm: TrialResult) -> None:
    sweep = storm[0]
    assert same(sweep.results()["worker"], calm)
    # The first step of the epoch in which it died was computed twice, and all later ones by another process.
    assert redone(sweep, "worker") == 1 and len(set(sweep.calls("worker"))) == 2


@pytest.mark.slow
def test_workers_that_hang_are_replaced(storm: tuple[Sweep, int, str], calm: TrialResult) -> None:
    sweep = storm[0]
    hung = int((sweep.faults / "hang.reached").read_text())
    assert not alive(hung)
    assert same(sweep.results()["hang"], calm)
    assert redone(sweep, "hang") == 1 and len(set(sweep.calls("hang"))) == 2


@pytest.mark.slow
def test_out_of_memory_halves_the_micro_batch(storm: tuple[Sweep, int, str], calm: TrialResult) -> None:
    sweep = storm[0]
    result, history = sweep.results()["memory"], read_events(sweep.paths()["memory"])
    notes = {record.epoch: record.notes for record in history if record.notes}
    assert notes == {3: ("out of memory: continues with micro_batch=2",)}
    assert (result.status, result.epochs) == (calm.status, calm.epochs)
    assert result.after is not None and calm.after is not None
    # Half the rows at a time: the same sums, rounded in another order.
    for name in ("ma", "el", "forget_loss", "bertscore_f1", "ppl_heldout"):
        assert getattr(result.after, name) == pytest.approx(getattr(calm.after, name), rel=1e-3), name
    assert len(set(sweep.calls("memory"))) == 2


@pytest.mark.slow
def test_out_of_memory_for_good_is_said(storm: tuple[Sweep, int, str]) -> None:
    sweep, _, output = storm
    result = sweep.results()["hopeless"]
    assert result.status == "failed"
    assert "out of memory with micro_batch=2: " in result.reason and "allocate" in result.reason
    assert result.reason in " ".join(output.split())  # as the table's lines say it, brackets and all
    assert result.epochs == 3 and result.after is not None  # what it had reached is kept
    assert len(set(sweep.calls("hopeless"))) == 2  # and it was not tried a third time


@pytest.mark.slow
def test_a_trial_that_diverges_ends_with_its_reason(storm: tuple[Sweep, int, str]) -> None:
    sweep, _, output = storm
    result = sweep.results()["wild"]
    assert (result.status, result.epochs) == ("failed", 1)
    assert result.reason == "diverged: the forget loss is not finite after epoch 1"
    assert f"{result.name}: {result.reason}" in output


@pytest.mark.slow
def test_a_budget_then_a_driver_a_checkpoint_and_a_trial_that_are_lost(
    storm: tuple[Sweep, int, str], calm: TrialResult, tmp_path: Path
) -> None:
    # Its storage has a URL, as a bucket has: nothing but what lies there tells one driver of another.
    sweep = Sweep(tmp_path, (method("first"), method("second")), store_of=storm[0], storage=f"local://{tmp_path}/runs")
    sweep.go("first", "second")
    driver = sweep.start(QUIET, "resources.max_concurrent=1", "resources.max_hours=0.0001")
    assert driver.end() == 1, driver.output
    ((done, result),) = sweep.results().items()
    left = "second" if done == "first" else "first"
    assert same(result, calm)
    assert "resources.max_hours=0.0001 is reached" in driver.output
    assert f"1 trials were not started: {left}-small-s0-a0.5-b1.0" in " ".join(driver.output.split())
    assert sweep.calls(left) == []

    # With a larger budget the other one runs. A second driver is told so. Then one on another machine takes the sweep
    # over, as if the first had stood still for long: the first leaves, and leaves what storage says to its successor.
    (sweep.faults / f"{left}.go").unlink()
    driver = sweep.start(QUIET, "resources.max_concurrent=1", "resources.max_hours=1")
    sweep.reached(left, driver)
    second = sweep.start(QUIET)
    assert second.end() == 2
    holder = f"another driver (process {driver.process.pid} on {socket.gethostname()}, since 20"
    assert f"local://{tmp_path}/runs/t: {holder}" in second.output and "--wait" in second.output
    successor = Holder("other", "elsewhere", 1, time.time(), time.time())
    lease = Lease(f"{sweep.disk}/t", 99, successor)
    driver.wait_for(lambda: b'"running"' in (sweep.disk / "t" / "beat.json").read_bytes())
    write_atomic(lease.url, to_json(asdict(successor)))
    tables = (sweep.disk / "t" / "trials.csv").stat().st_mtime_ns
    assert driver.end() == 1, driver.output
    assert "Another driver has taken this sweep over" in " ".join(driver.output.split())
    assert b'"running"' in (sweep.disk / "t" / "beat.json").read_bytes()
    assert (sweep.disk / "t" / "trials.csv").stat().st_mtime_ns == tables
    lease.release()
    (sweep.faults / f"{left}.reached").unlink()
    checkpoints = sorted((sweep.disk / "t" / "trials").glob("*/checkpoint/checkpoint_2*"))
    assert len(checkpoints) == 2
    largest = max((file for file in checkpoints[-1].rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)

    # The next driver goes on from the checkpoint before; there its trial's process on the cluster is killed.
    before = len(sweep.calls(left))
    driver = sweep.start(QUIET, "resources.max_concurrent=1")
    worker = sweep.reached(left, driver)
    patient = sweep.start(QUIET, "--wait")
    trials = processes_of(sweep.faults, "ray::ImplicitFunc")
    assert trials
    for process in trials:
        os.kill(process, signal.SIGKILL)
    driver.wait_for(lambda: not alive(worker))
    sweep.go(left)
    assert driver.end() == 0, driver.output
    assert same(sweep.results()[left], calm)
    assert same(sweep.results()[done], calm)
    steps = sweep.steps(left)
    assert before == steps[1] + steps[2] + 1
    # Who waited goes on from what is there: nothing is left to do.
    assert patient.end() == 0, patient.output
    assert f"waiting for another driver (process {driver.process.pid} on" in patient.output
    assert "0 trials to run, 2 already done" in patient.output
    # The second epoch was computed again, for its checkpoint was cut, and the first step of the fourth.
    assert len(sweep.calls(left)) - before == steps[2] + steps[3] + 1 + sum(steps[4:])


@pytest.mark.slow
def test_a_head_that_dies_and_is_started_anew(storm: tuple[Sweep, int, str], calm: TrialResult, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, (method("head"),), store_of=storm[0])
    with ray_head(sweep.environment, jobs=False) as head:
        access = {"RAY_ADDRESS": head.gcs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}
        driver = sweep.start(QUIET, **access)
        worker = sweep.reached("head", driver)
        head.crash()
        head.start()
        assert driver.end(600) == 1
        # Ray's own code may be quicker than our look, and ends the driver with a failed check; then others say it.
        words = ("Ray is gone: ", "The driver was ended at once: killed, or by Ray, which is gone")
        assert any(each in driver.output for each in words) and "the same command continues" in driver.output
        assert "Traceback" not in driver.output
        # What worked for it has left by itself.
        until = time.monotonic() + 300
        while alive(worker) or processes_of(sweep.faults, "ray::ImplicitFunc"):
            assert time.monotonic() < until
            time.sleep(0.2)
        sweep.go("head")
        driver = sweep.start(QUIET, **access)
        assert driver.end() == 0, driver.output
    assert "start    head-small-s0-a0.5-b1.0 from epoch 2" in driver.output
    assert same(sweep.results()["head"], calm)
    assert redone(sweep, "head") == 1 and len(set(sweep.calls("head"))) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system (root with CAP_SYS_ADMIN): {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that leaves no byte free."""
    file = folder / "filler"
    for size in (2**20, 1):
        with contextlib.suppress(OSError), file.open("ab", buffering=0) as sink:
            while True:
                sink.write(bytes(size))
    return file


@pytest.mark.slow
def test_storage_that_is_full_for_a_while(
    storm: tuple[Sweep, int, str], calm: TrialResult, small_disk: Path, tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, (method("disk"),), store_of=storm[0], storage=small_disk / "runs")
    driver = sweep.start()
    sweep.reached("disk", driver)
    told = sweep.steps("disk")
    assert len(told) == 3
    filler = fill(small_disk)
    sweep.go("disk")
    driver.wait_for(lambda: len(sweep.calls("disk")) == sum(told) + storm[0].steps("none")[3])
    time.sleep(6)  # the third epoch cannot be told
    assert driver.process.poll() is None and sweep.steps("disk") == told
    filler.unlink()
    assert driver.end() == 0, driver.output
    assert same(sweep.results()["disk"], calm)
    assert redone(sweep, "disk") == 0 and len(set(sweep.calls("disk"))) == 1
    assert "MLflow did not answer" not in driver.output


def test_storage_that_is_read_only_for_a_while_and_for_good(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    paths = TrialPaths(str(small_disk / "trial"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "state").write_bytes(bytes(2**20))
    history = (EpochRecord(0, 6, Scores(0.9, 0.5, 1.0, 0.9, 0.9, 3.0)),)

    def write() -> None:
        write_events(paths, history)
        check_room(paths, checkpoint)

    write()
    (small_disk / "trial" / "events.jsonl").unlink()
    remount = ["mount", "-o", "remount,{}", str(small_disk)]
    subprocess.run([part.format("ro") for part in remount], check=True)
    for look in (lambda: check_room(paths, checkpoint), lambda: sign_of_progress(paths)):
        with pytest.raises(OSError, match="read-only"):
            look()
    again = threading.Timer(1.5, lambda: subprocess.run([part.format("rw") for part in remount], check=True))
    again.start()
    with_retries(write, "events.jsonl")
    again.join()
    assert read_events(paths) == history

    fill(small_disk)
    with pytest.raises(OSError, match="no room for 1048576 bytes"):
        check_room(paths, checkpoint)
    with pytest.raises(OSError, match="no room"):
        sign_of_progress(paths)
    monkeypatch.setenv(RETRY_VARIABLE, "3")
    tries: list[float] = []
    with pytest.raises(OSError, match="No space left"):
        with_retries(lambda: (tries.append(time.monotonic()), write_events(paths, history * 2)), "events.jsonl")
    assert len(tries) >= 2 and tries[-1] - tries[0] >= 1
    # What no waiting mends is raised at once, and what was there is still whole.
    tries.clear()
    with pytest.raises(NotADirectoryError):
        with_retries(lambda: (tries.append(0.0), os.mkdir(f"{paths.events}/x")), "x")
    assert len(tries) == 1
    assert read_events(paths) == history


def test_what_a_killed_worker_left_on_its_machine_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, signal; from icu_ray.trial.checkpoints import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'weights').write_text('many')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("*/weights")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as mine, scratch_folder() as other:  # of one that lives it is not
        assert not left.exists() and mine.is_dir() and other.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_group_is_ended_when_nothing_is_told_while_it_could_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog's clock is moved by hand, and not before it has looked: a busy machine changes nothing."""
    told: list[object] = []
    ended: list[str] = []
    now, looks = [0.0], threading.Semaphore(0)
    monkeypatch.setattr("icu_ray.trial.watchdog.time", SimpleNamespace(monotonic=lambda: now[0]))

    def sign() -> object:
        looks.release()
        if told and isinstance(told[-1], OSError):
            raise told[-1]
        return tuple(told)

    def lasts(seconds: float, tell: Callable[[], object]) -> None:
        for _ in range(round(seconds / 0.5)):
            told.append(tell())
            passes(0.5)

    def passes(seconds: float) -> None:
        now[0] += seconds
        while looks.acquire(blocking=False):
            pass
        for _ in range(2):  # a look that has begun may be of before
            assert looks.acquire(timeout=120)

    with Watchdog(sign, 1.5 / 60, ended.append) as watchdog:
        lasts(2.5, time.monotonic)  # no group yet
        watchdog.started("first")
        lasts(2.5, time.monotonic)  # it tells of epoch after epoch
        lasts(2.5, lambda: OSError("storage is away"))
        assert ended == [] and not watchdog.hung
        told.append("storage is back, and nothing is told")
        passes(0.5)
        passes(3)
        assert looks.acquire(timeout=120)  # the look after it is over
        assert ended == ["first"] and watchdog.hung
        watchdog.started("second")
        assert not watchdog.hung and watchdog.ended == 1
    with Watchdog(sign, None, ended.append) as watchdog:
        watchdog.started("third")
        time.sleep(0.1)
    assert ended == ["first"]
