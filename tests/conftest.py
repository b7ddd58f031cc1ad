"""Fixtures of several test files."""

from __future__ import annotations

import atexit
import os
import pickle
import random
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, settings

from icu_ray.plan import past_trials
from tests.support.local_ray import ray_nodes
from tests.support.payload import Payload

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.support.measures_case import Oracle

# Properties are no timings: a busy machine may take long over any example.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# Whatever a test starts must not wait for a hub that cannot be reached, nor use more cores than it was given.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# On a busy machine Ray's processes take longer to come up than the seconds that each gives the one before it; a raylet
# whose agents are late ends itself, and whoever started it asks for it in vain until its own time is over.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")
os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
# What tests find out about this machine, and what their tiny trials took, must not tell their user's later estimates,
# nor those of tests that run beside them: each process has a folder of its own.
os.environ["ICU_RAY_CACHE"] = tempfile.mkdtemp(prefix="icu_ray-cache-")
atexit.register(shutil.rmtree, os.environ["ICU_RAY_CACHE"], ignore_errors=True)
# Ray reads these once in a process: every Ray that a test starts, ours or a plain one, has the same.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
torch.set_num_threads(1)
# A shell without job control starts what runs in its background with interruptions ignored, and children inherit that:
# the processes that tests interrupt would not hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with hang-ups.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


SEED = "ICU_RAY_TEST_SEED"


LONG = ("end_to_end", "sweep", "requests", "cluster")
"""Folders whose files take minutes. They come first, so that no process is left alone with one at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ICU_RAY_TEST_SEED=123 files come in an order of its own, the same in every process; tests in a file stay."""
    files = sorted({item.path for item in items})
    if seed := os.environ.get(SEED):
        random.Random(seed).shuffle(files)
    files.sort(key=lambda path: path.parent.name not in LONG)
    place = {path: number for number, path in enumerate(files)}
    items.sort(key=lambda item: place[item.path])


class _Failures:
    """Each failure, and the test that a process died in, is told at once: a run that is ended from outside, as by a
    limit on its time, comes to no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self._config.pluginmanager.get_plugin("terminalreporter")
            said = report.longreprtext.splitlines()[-20:]
            terminal.write_line("\n".join(["", f"FAILED {report.nodeid} ({report.when})", *said]))


def pytest_configure(config: pytest.Config) -> None:
    """In the process that has the terminal."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failures(config))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """What had that order again, when something failed."""
    if exitstatus and (seed := os.environ.get(SEED)):
        terminalreporter.write_line(f"The order of the files: {SEED}={seed}")


@pytest.fixture(scope="module", autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """What a file's tests, or libraries in them, leave in the environment is taken away before the next file: which
    file that is nobody knows where two run at a time. So are the durations of its trials, by which the next one's
    plans would estimate theirs and order them."""
    before = dict(os.environ)
    (Path(before["ICU_RAY_CACHE"]) / past_trials.FILE).unlink(missing_ok=True)
    yield
    # Never empty in between: threads, of Ray for one, may read it or start a process at that moment.
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real texts and oracle numbers beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "oracles" / "A" / "expected.json").is_file():
        pytest.skip("needs ../shared (real texts and oracle numbers), which is not here")
    return folder


@pytest.fixture(scope="session")
def set_c(shared: Path) -> Path:
    """The folder of set C of the oracles."""
    folder = shared / "oracles" / "C"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="module")
def oracle(set_c: Path) -> Oracle:
    """Set C of the oracles; some test files have one of another set by this name."""
    from tests.support.measures_case import Oracle

    torch.set_num_threads(1)
    return Oracle(set_c)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that only code out of a refused file would make; a test that asks for it fails when it was made."""
    path = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()  # the payload works, so that its absence says something
    path.unlink()
    yield path
    assert not path.exists(), "code from a file was run"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the tests of one file; Playwright drives the system's, and downloads none."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install 'icu-ray[dev]')")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    if binary is None:
        pytest.skip("needs a Chromium (apt-get install chromium), which is not installed")
    with driver.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of trained stand-ins that the processes of this run share; see tests/support/trained.py."""
    mine = tmp_path_factory.getbasetemp()
    return (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "trained"


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray of two CPUs for all files that this process runs."""
    with ray_nodes(num_cpus=2, object_store_memory=512 * 2**20) as nodes:
        yield nodes.address


@pytest.fixture(scope="module")
def ray_cluster(ray_address: str) -> Iterator[None]:
    """That Ray, with all its CPUs free and this process connected to it, for the tests of one file."""
    import ray

    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    try:
        until = time.monotonic() + 120
        while ray.available_resources().get("CPU") != 2:  # what the file before left is still being cleared away
            assert time.monotonic() < until, ray.available_resources()
            time.sleep(0.1)
        yield
    finally:
        ray.shutdown()
