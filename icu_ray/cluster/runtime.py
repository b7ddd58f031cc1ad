"""Ray: connecting to a cluster or starting one here, and what is kept out of the terminal.

With RAY_ADDRESS set (or inside a submitted Ray job) that cluster is used; otherwise a Ray of our own is started on
this machine, in a folder of its own, reachable only with its own token, and gone with this process even when that is
killed. Everything Ray prints goes to a log file.

    with quiet(log_file) as terminal, connected() as cluster:
        refuse_impossible(groups, cluster.nodes())        # icu_ray/cluster/nodes.py

Importing this module imports neither Ray nor torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from icu_ray.cluster.nodes import cluster_nodes, usable_cpus
from icu_ray.errors import ClusterError, without_secrets
from icu_ray.plan.schedule import Node

if TYPE_CHECKING:
    from icu_ray.config import NodeTypeConfig


log = logging.getLogger(__name__)
CONTROL: Mapping[str, float] = {"node:__internal_head__": 0.001}
"""What a trial's controller asks of Ray: a place on the head node, which no spot market takes away, and no CPU."""

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in a submitted job's driver."""

_PREFIX = "icu-ray-"
_OWNER = "driver.pid"
ENVIRONMENT: Mapping[str, str] = {
    # The controller looks after its workers this often; a report waits for its look (1.7 s at Ray's default of 2).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Where nodes must first be started, a group of workers waits in Ray's queue rather than failing after a minute.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # A cloud's notice may come thirty seconds ahead; Ray's default is to look every five.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Tune sets this on its own actors; set everywhere, all our processes have one environment and Ray can reuse them.
    "PL_DISABLE_FORK": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # The first report of a trial says where its workers stand, and has no metric yet.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

_LOCAL_ENVIRONMENT: Mapping[str, str] = {
    # Nobody preempts this machine, and the watcher is a process for each trial.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

_START_ENVIRONMENT: Mapping[str, str] = {
    # On a loaded machine Ray's processes take longer to come up than the 30 s that it gives each of them.
    "RAY_gcs_server_port_wait_time_s": "180",
    "RAY_raylet_start_wait_time_s": "180",
}

_LOCAL_SETTINGS = {
    # The processes of the worker pool wait as long as it takes until a trial comes for them.
    "idle_worker_killing_time_threshold_ms": 10**8,
    "num_workers_soft_limit": 64,
    "prestart_worker_first_driver": False,
}

_LISTEN_SECONDS = 10.0
_OBJECT_STORE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Cluster:
    """A connected Ray. local: started here by us; temp: its folder then."""

    local: bool
    temp: Path | None = None

    def nodes(self, types: Sequence[NodeTypeConfig] = ()) -> tuple[Node, ...]:
        """Every node there is, and every one that an autoscaler could add, which only the config may know (`types`)."""
        return cluster_nodes(types)


def will_start_locally() -> bool:
    """Whether `connected` would start a Ray of its own."""
    return not os.environ.get("RAY_ADDRESS") and not inside_job()


def inside_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a cluster."""
    return _JOB_CONFIG in os.environ


@contextlib.contextmanager
def connected(cpus: int | None = None, gpus: int | None = None, keep_logs: Path | None = None) -> Iterator[Cluster]:
    """A Ray for the time of the block.

    cpus, gpus: logical ones of a Ray started here; default: the machine's. keep_logs: a folder that gets Ray's own
    logs when the block is left by an exception. ClusterError where it does not start or answer.
    """
    local = will_start_locally()
    own = {**_LOCAL_ENVIRONMENT, **_START_ENVIRONMENT} if local else {}
    environment = {**ENVIRONMENT, **own, **_authentication(local)}
    with _environment(environment), contextlib.ExitStack() as stack:
        temp = stack.enter_context(_temp_folder(keep_logs)) if local else None
        import ray

        stack.callback(ray.shutdown)
        with _own_sigterm(), _said_plainly(keep_logs if local else None):
            _init(temp, cpus, gpus)
        yield Cluster(local, temp)


def _init(temp: Path | None, cpus: int | None, gpus: int | None) -> None:
    """Start a Ray in `temp`, or connect to the one there is where that is None."""
    import ray

    common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if temp is not None:
        ray.init(
            num_cpus=usable_cpus() if cpus is None else cpus,
            num_gpus=gpus,
            _temp_dir=str(temp),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            runtime_env={
                "env_vars": worker_environment(local=True),
                "worker_process_setup_hook": "icu_ray.trial.worker_pool.preload",
            },
            _system_config=_LOCAL_SETTINGS,
            **common,
        )
    elif inside_job():
        # Ray joins this with the job's own, and raises where both set one variable.
        taken = json.loads(os.environ[_JOB_CONFIG]).get("runtime_env", {}).get("env_vars", {})
        own = {name: value for name, value in worker_environment(local=False).items() if name not in taken}
        ray.init(runtime_env={"env_vars": own}, **common)
    else:
        _listens(os.environ["RAY_ADDRESS"])
        ray.init(
            address=os.environ["RAY_ADDRESS"],
            runtime_env={"env_vars": worker_environment(local=False)},
            **common,
        )


def _listens(address: str) -> None:
    """OSError where nobody listens at HOST:PORT: Ray would ask for minutes. Other ways to say an address are Ray's."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTEN_SECONDS).close()


@contextlib.contextmanager
def _said_plainly(logs: Path | None) -> Iterator[None]:
    """Ray has many exceptions for not coming up; logs: where those of a Ray of our own will be."""
    try:
        yield
    except Exception as error:
        log.exception("Ray")
        what = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        address = os.environ.get("RAY_ADDRESS")
        if address is None:
            remedy = "; on a busy machine try again when it is quieter" + (f", its logs are in {logs}" if logs else "")
            raise ClusterError(f"Ray did not start on this machine ({what}){remedy}") from error
        raise ClusterError(
            f"RAY_ADDRESS={address}: no Ray answers there ({without_secrets(what)}); start the cluster, set "
            "RAY_AUTH_TOKEN to its token and use its versions of Python and Ray ('icu-ray doctor' looks at them)"
        ) from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM over, for a crash report and an exit at once; afterwards whoever had it has it again."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def worker_environment(local: bool) -> dict[str, str]:
    """Environment variables of all processes that work for us."""
    return {**ENVIRONMENT, **(_LOCAL_ENVIRONMENT if local else {})}


def _authentication(local: bool) -> dict[str, str]:
    """Always said, never left to what happens to lie in ~/.ray."""
    if local and "ray" in sys.modules:
        # Ray reads its mode once, when it is imported; a later word would only divide its processes.
        return {} if "RAY_AUTH_MODE" in os.environ else {"RAY_AUTH_MODE": "disabled"}
    if local:
        # One process can know one token in its life, so one that is there already is taken.
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)}
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    return {"RAY_AUTH_MODE": "token" if given or Path("~/.ray/auth_token").expanduser().is_file() else "disabled"}


def authenticate() -> None:
    """Let this process show the cluster the token that its environment holds. Before Ray is imported, or too late."""
    os.environ.update(_authentication(local=False))


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the time of a block; what the user has set himself stays."""
    before = dict(os.environ)
    for name, value in values.items():
        if name.startswith("RAY_AUTH") or name not in os.environ:
            os.environ[name] = value
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)


@contextlib.contextmanager
def _temp_folder(keep_logs: Path | None) -> Iterator[Path]:
    """A short path (sockets in it may have 107 characters), private to this run."""
    base = Path(tempfile.gettempdir())
    _remove_orphans(base)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    (folder / _OWNER).write_text(str(os.getpid()))
    try:
        yield folder
    except Exception:
        if keep_logs is not None:
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(folder / "session_latest" / "logs", keep_logs, dirs_exist_ok=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(base: Path) -> None:
    """Folders of runs that were killed and could not clean up."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            os.kill(int((folder / _OWNER).read_text()), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError):
            continue


@contextlib.contextmanager
def quiet(log_file: Path) -> Iterator[TextIO]:
    """What this process and its children print goes to `log_file`; yields the real terminal."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    terminal = os.fdopen(os.dup(saved[0]), "w", buffering=1)
    with log_file.open("ab", buffering=0) as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for descriptor in saved:
            os.close(descriptor)
        terminal.close()


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's generators."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
