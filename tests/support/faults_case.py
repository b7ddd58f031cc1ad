"""Small sweeps of a method whose loss does to its own process what a test asks for, and what is read of them after.

The plug-in is ICU with its numbers unchanged. Its setting `fault` names what happens in the third epoch, when two
checkpoints lie in storage: 'memory' asks torch for an impossible tensor while the micro batch has more than two rows,
'hopeless' whatever it has; any other name waits there until the test has done its deed and says go, 'hang' for ever,
once. 'moves' waits in the second epoch for the notice that its node is to be taken away ('drain'), and where it goes on
once more ('node'). The folder of $ICU_RAY_TEST_FAULTS tells which process stands where, and who computed each loss.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from icu_ray.storage.files import CACHE_VARIABLE
from icu_ray.storage.results import TrialResult
from icu_ray.storage.trial_files import TrialPaths, read_events, read_result, read_spec, trial_ids

ROOT = Path(__file__).parents[2]
FOLDER_VARIABLE = "ICU_RAY_TEST_FAULTS"
PLUG_IN = f"""
import os, time
from pathlib import Path
import ray, ray.train, torch
from icu_ray.methods.icu import Icu

class Faulty(Icu):
    name = "faulty"
    defaults = {{"fault": "none"}}
    calls = 0

    def loss(self, model, batch):
        Faulty.calls += 1
        self.folder, fault = Path(os.environ["{FOLDER_VARIABLE}"]), self.settings["fault"]
        with (self.folder / f"{{fault}}.calls").open("a") as file:
            file.write(f"{{os.getpid()}} {{ray.get_runtime_context().get_node_id()}}\\n")
        if fault == "moves":
            if Faulty.calls == 3 and self.hold("drain"):
                while ray.train.get_preemption_info() is None:
                    time.sleep(0.1)
            elif Faulty.calls == 2 and (self.folder / "drain.go").exists():
                self.hold("node")
        elif fault in ("memory", "hopeless"):
            if Faulty.calls >= 5 and (fault == "hopeless" or len(batch) > 2):
                torch.empty(2**60)
        elif fault == "hang" and (self.folder / "hang.reached").exists():
            pass
        elif fault != "none" and Faulty.calls == 5:
            self.hold(fault)
        return super().loss(model, batch)

    def hold(self, name):
        if (self.folder / f"{{name}}.go").exists():
            return False
        (self.folder / f"{{name}}.reached").write_text(str(os.getpid()))
        while not (self.folder / f"{{name}}.go").exists():
            time.sleep(0.05)
        return True
"""
CONFIG = """\
name: t
storage: {storage}
data: {{source: synthetic, records: 48, sample_size: 6, heldout: 6}}
columns: {{length: 48, prefix_start: 16, suffix_start: 32}}
models:
{models}
methods:
{methods}
optim: {{lr: 2.0e-4}}
train: {{batch_size: 4}}
el: {{ngram: 5}}
stop: {{max_epochs: 12}}
pairs: {{encoder: bundled}}
filter: {{encoder: bundled, encoder_layer: 6}}
"""
STANDIN = "standin: {size: small, vocabulary: 600, target_repeats: 8}"
SMALL = (f"{{name: small, {STANDIN}}}",)


def method(fault: str, model: str = "small", label: str = "", alpha: float = 0.5) -> str:
    """A line of the config: one trial, called after its fault."""
    cell = f"label: {label or fault}, cells: [[{alpha}, 1.0]], settings: {{fault: {fault}}}"
    return f"{{name: faulty, {cell}, models: [{model}]}}"


class Sweep:
    """A folder with a config, the plug-in, and the processes that ran there."""

    def __init__(
        self,
        folder: Path,
        methods: tuple[str, ...],
        models: tuple[str, ...] = SMALL,
        store_of: Sweep | None = None,
        storage: Path | str | None = None,
    ) -> None:
        """storage: a folder, or its URL for fsspec (local://...)."""
        self.folder, self.storage = folder, str(storage or folder / "runs")
        if store_of is not None:  # what that one has prepared is not paid for again
            shutil.copytree(store_of.disk / "store", self.disk / "store")
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        lines = ["\n".join(f"  - {line}" for line in part) for part in (models, methods)]
        (folder / "c.yaml").write_text(CONFIG.format(models=lines[0], methods=lines[1], storage=self.storage))
        package = folder / "package"
        info = package / "faulty_unlearning-1.0.dist-info"
        info.mkdir(parents=True)
        (package / "faulty_unlearning.py").write_text(PLUG_IN)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-unlearning\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[icu_ray.methods]\nfaulty = faulty_unlearning:Faulty\n")

    @property
    def disk(self) -> Path:
        """The folder of its storage on this machine."""
        return Path(self.storage.removeprefix("local://"))

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the sweep has to have."""
        path = os.pathsep.join([str(ROOT), str(self.folder / "package")])
        cache = str(self.folder / "cache")
        return {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", FOLDER_VARIABLE: str(self.faults), CACHE_VARIABLE: cache}

    def start(self, *arguments: str, **environment: str) -> Driver:
        """Run the sweep in a process of its own."""
        return Driver(self.folder, arguments, {**self.environment, **environment})

    def go(self, *faults: str) -> None:
        """Let trials that wait, or will, go on."""
        for fault in faults:
            (self.faults / f"{fault}.go").touch()

    def reached(self, fault: str, driver: Driver) -> int:
        """The process that stands where its fault is to happen."""
        file = self.faults / f"{fault}.reached"
        driver.wait_for(lambda: file.is_file() and file.read_text() != "")
        return int(file.read_text())

    def calls(self, fault: str) -> list[str]:
        """The process of every loss that was computed."""
        return [line.split()[0] for line in self._lines(fault)]

    def nodes(self, fault: str) -> list[str]:
        """The node of every loss that was computed."""
        return [line.split()[1] for line in self._lines(fault)]

    def _lines(self, fault: str) -> list[str]:
        file = self.faults / f"{fault}.calls"
        return file.read_text().splitlines() if file.is_file() else []

    def paths(self) -> dict[str, TrialPaths]:
        """Trials that have started, by their fault."""
        every = [TrialPaths.of(self.storage, "t", trial) for trial in trial_ids(self.storage, "t")]
        return {spec.method: paths for paths in every if (spec := read_spec(paths)) is not None}

    def results(self) -> dict[str, TrialResult]:
        """Trials that are over, by their fault."""
        found = {fault: read_result(paths) for fault, paths in self.paths().items()}
        return {fault: result for fault, result in found.items() if result is not None}

    def steps(self, fault: str) -> list[int]:
        """Losses of each epoch of a trial on one worker, as it tells in storage."""
        return [record.steps for record in read_events(self.paths()[fault])]


class Driver:
    """A running `python -m icu_ray.sweep`."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "icu_ray.sweep", "c.yaml", *arguments],
            cwd=folder,
            env={**inherited, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        """What it has said so far."""
        return "".join(self._lines)

    def wait_for(self, condition: Any, seconds: float = 600) -> None:
        """Return when `condition()` holds; the driver must be alive until then."""
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < until, self.output
            time.sleep(0.05)

    def end(self, seconds: float = 900) -> int:
        """Its exit code, once it has left by itself."""
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self.output) from None
        self._reader.join(timeout=10)
        return code

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def same(result: TrialResult, calm: TrialResult) -> bool:
    """Whether a trial ended as the one that nothing happened to, to the last bit."""
    ours, theirs = ((r.status, r.reason, r.epochs, r.before, r.after) for r in (result, calm))
    return ours == theirs


def processes_of(faults: Path, name: str) -> list[int]:
    """Processes of a sweep's Ray whose title holds `name`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            ours = f"{FOLDER_VARIABLE}={faults}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if ours and name in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def alive(process: int) -> bool:
    """Whether a process runs (one that is dead and not yet waited for does not)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
