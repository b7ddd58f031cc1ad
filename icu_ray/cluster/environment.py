"""Environment variables that Ray's processes run under: the driver's own, and those of all that work for it.

with environment_variables(driver_environment(local=True)): ray.init(...)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

ENVIRONMENT: Mapping[str, str] = {
    # The controller looks after its workers this often; a report waits for its look (1.7 s at Ray's default of 2).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    # Where nodes must first be started, a worker group waits in Ray's queue rather than failing after a minute.
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
    # A raylet whose agents are later than this ends itself.
    "RAY_agent_register_timeout_ms": "180000",
    # Ray's agents ask a head that died with a killed driver this long before they end too; Ray's default is a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


def worker_environment(local: bool) -> dict[str, str]:
    """Environment variables of all processes that work for us."""
    return {**ENVIRONMENT, **(_LOCAL_ENVIRONMENT if local else {})}


def driver_environment(local: bool) -> dict[str, str]:
    """Environment variables of this process; local: of one that starts a Ray of its own."""
    return {**worker_environment(local), **(_START_ENVIRONMENT if local else {})}


@contextlib.contextmanager
def environment_variables(values: Mapping[str, str]) -> Iterator[None]:
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
