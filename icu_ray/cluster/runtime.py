"""Ray's runtime for the time of a block: a cluster that is there, or one of our own that is started here.

With RAY_ADDRESS set (or inside a submitted Ray job) that cluster is used; otherwise a Ray of our own is started on
this machine, in a private folder, on addresses that only this machine reaches and only with its own token, and gone
with this process even when that is killed.

    with connected() as cluster:
        refuse_impossible(groups, cluster.nodes())        # icu_ray/cluster/nodes.py

Importing this module imports neither Ray nor torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.cluster.authentication import authentication
from icu_ray.cluster.environment import driver_environment, environment_variables, worker_environment
from icu_ray.cluster.fork_server import fork_server
from icu_ray.cluster.nodes import cluster_nodes, usable_cpus
from icu_ray.cluster.temp_folder import temp_folder
from icu_ray.console.interrupts import keyboard_interrupts
from icu_ray.errors import ClusterError, without_secrets
from icu_ray.plan.schedule import Node

if TYPE_CHECKING:
    from icu_ray.config import NodeTypeConfig


log = logging.getLogger(__name__)
CONTROL: Mapping[str, float] = {"node:__internal_head__": 0.001}
"""What a trial's controller asks of Ray: a place on the head node, which no spot market takes away, and no CPU."""

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in a submitted job's driver."""

_LOCAL_SETTINGS = {
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
def connected(
    cpus: int | None = None,
    gpus: int | None = None,
    keep_logs: Path | None = None,
    preload: str | None = None,
) -> Iterator[Cluster]:
    """A Ray for the time of the block.

    cpus, gpus: logical ones of a Ray started here; default: the machine's. keep_logs: a folder that gets Ray's own
    logs when the block is left by an exception. preload: dotted name of a function that imports what most processes
    need; those of a Ray started here are then forked from one that has called it. ClusterError where it does not start
    or answer.
    """
    local = will_start_locally()
    environment = {**driver_environment(local), **authentication(local)}
    with environment_variables(environment), contextlib.ExitStack() as stack:
        temp = stack.enter_context(temp_folder(keep_logs)) if local else None
        if temp is not None and preload is not None:
            stack.enter_context(fork_server(temp.parent, preload))
        import ray

        stack.callback(ray.shutdown)
        # Its processes are forked, and in what Python calls around a fork an interruption would be lost.
        with _kept_sigterm_handler(), keyboard_interrupts(), _start_errors_explained(keep_logs if local else None):
            _start_or_join(temp, cpus, gpus)
        yield Cluster(local, temp)


def _start_or_join(temp: Path | None, cpus: int | None, gpus: int | None) -> None:
    """Start a Ray in `temp`, or connect to the one there is where that is None."""
    import ray

    common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if temp is not None:
        with _loopback_addresses():
            ray.init(
                num_cpus=usable_cpus() if cpus is None else cpus,
                num_gpus=gpus,
                _temp_dir=str(temp),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                runtime_env={"env_vars": worker_environment(local=True)},
                _system_config=_LOCAL_SETTINGS,
                **common,
            )
    elif inside_job():
        # Ray joins this with the job's own, and raises where both set one variable.
        taken = json.loads(os.environ[_JOB_CONFIG]).get("runtime_env", {}).get("env_vars", {})
        own = {name: value for name, value in worker_environment(local=False).items() if name not in taken}
        ray.init(runtime_env={"env_vars": own}, **common)
    else:
        _check_listening(os.environ["RAY_ADDRESS"])
        ray.init(
            address=os.environ["RAY_ADDRESS"],
            runtime_env={"env_vars": worker_environment(local=False)},
            **common,
        )


@contextlib.contextmanager
def _loopback_addresses() -> Iterator[None]:
    """A node that is started inside has the address 127.0.0.1, and its processes listen there alone. Ray does so on
    Macs, by this switch, and turns any such address that it is given into the machine's own."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_listening(address: str) -> None:
    """OSError where nobody listens at HOST:PORT: Ray would ask for minutes. Other ways to say an address are Ray's."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTEN_SECONDS).close()


@contextlib.contextmanager
def _start_errors_explained(logs: Path | None) -> Iterator[None]:
    """ClusterError for each of Ray's many ways of not coming up; logs: where those of a Ray of our own will be."""
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
def _kept_sigterm_handler() -> Iterator[None]:
    """Ray takes SIGTERM over, for a crash report and an exit at once; afterwards whoever had it has it again."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
