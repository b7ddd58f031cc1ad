"""A sweep as a job on a Ray cluster: what stands behind `icu-ray submit`.

job = submit("http://head:8265", "table1.yaml", ["samples=[0]"])
exit_code = follow(job, print)          # 0 done, 1 failed, 130 stopped

The working folder travels with the job, less what .rayignore leaves out. The config is checked here before anything is
sent. A job that failed or was stopped is gone on with by submitting the same config again: what it finished lies in
storage.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.planning import find_config, plan_config
from icu_ray.tracking import without_secrets
from icu_ray.version import COMMIT_VARIABLE, code_version

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOP_WAIT_SECONDS = 60
"""Ray's own 3 s are too few for a clean stop of the trials."""
_ENDED = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
_TRACKING = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Job:
    """A submitted job. address: of the cluster's job server."""

    address: str
    submission_id: str


def job_address(given: str | None) -> str:
    """The job server: as given, else RAY_API_SERVER_ADDRESS, else this machine's."""
    return given or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS


def submit(
    address: str,
    config: str | None,
    overrides: Sequence[str] = (),
    *,
    working_dir: Path = Path(),
    submission_id: str | None = None,
    pass_on: Sequence[str] = (),
) -> Job:
    """Check the config and start the job; UserError for a bad config and a cluster that does not answer.

    pass_on: names of environment variables whose values the job gets, for everybody to see who may see the cluster's
    jobs: secrets belong into the cluster's own environment. MLflow's address goes with it unless it holds a password.
    """
    plan = plan_config(find_config(config), overrides, dry_run=True)
    root = working_dir.resolve()
    if config is not None and Path(config).is_file() and not Path(config).resolve().is_relative_to(root):
        raise UserError(f"config {config}: lies outside the working folder {root}, which is all that the job sees")
    code = code_version()
    uri = os.environ.get(_TRACKING, "")
    names = [*pass_on, *([_TRACKING] if uri and without_secrets(uri) == uri else [])]
    missing = [name for name in pass_on if name not in os.environ]
    if missing:
        raise UserError(f"--env: {', '.join(missing)}: not set here")
    variables = {name: os.environ[name] for name in names} | {
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS),
        COMMIT_VARIABLE: f"{code['commit']}{'+' if code['dirty'] else ''}",
    }
    arguments = ([] if config is None else [config]) + list(overrides)
    chosen = submission_id or f"{plan.config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        made = _client(address).submit_job(
            entrypoint=shlex.join(["python", "-m", "icu_ray.sweep", *arguments]),
            submission_id=chosen,
            runtime_env={"working_dir": str(root), "env_vars": variables},
            metadata={"sweep": plan.config.name},
        )
    except RuntimeError as error:
        raise UserError(f"job {chosen} at {address}: {_first_line(error)}") from error
    return Job(address, str(made))


def follow(job: Job, say: Callable[[str], None]) -> int:
    """Pass the job's output on until it ends; its exit code. An interruption of the following leaves the job alone."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job.submission_id):
            say(text)

    client = _client(job.address)
    asyncio.run(tail())
    while (status := state(job)) not in _ENDED:
        time.sleep(1)
    return _ENDED[status]


def state(job: Job) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    try:
        return str(_client(job.address).get_job_status(job.submission_id).value)
    except RuntimeError as error:
        raise UserError(f"job {job.submission_id} at {job.address}: {_first_line(error)}") from error


def stop(job: Job) -> None:
    """Ask the job to stop; it keeps what is finished."""
    try:
        _client(job.address).stop_job(job.submission_id)
    except RuntimeError as error:
        raise UserError(f"job {job.submission_id} at {job.address}: {_first_line(error)}") from error


def jobs(address: str) -> Mapping[str, str]:
    """Status by submission id, of the sweeps among the cluster's jobs."""
    found = _client(address).list_jobs()
    return {str(job.submission_id): str(job.status.value) for job in found if "sweep" in (job.metadata or {})}


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except Exception as error:  # what a cluster that is not there raises depends on how it is not there
        raise UserError(
            f"no Ray job server at {address} ({_first_line(error)}); give --address http://HEAD:8265, and with token "
            "authentication RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
        ) from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
