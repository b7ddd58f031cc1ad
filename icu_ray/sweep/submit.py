"""A sweep as a job on a Ray cluster: what stands behind `icu-ray submit`.

    job = submit("http://head:8265", "table1.yaml", ["samples=[0]", "storage=s3://bucket/runs"], say=print)
    exit_code = follow(job, print)          # the sweep's own: 0 done, 1 failed, 2 refused; 130 stopped

The working folder travels with the job; what of it, is said before (sweep/upload.py). The config is checked here before
anything is sent, as far as this machine can know. A job that failed or was stopped is gone on with by submitting the
same config again: what it finished lies in storage. Importing this module does not import Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icu_ray
from icu_ray.cluster.authentication import authenticate
from icu_ray.config import SweepConfig
from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.data.hub_data import PREFIX, is_hub_data
from icu_ray.errors import UserError, is_secret_name, without_secrets
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.code_version import COMMIT_VARIABLE, code_version
from icu_ray.storage.files import local_path
from icu_ray.sweep.upload import known_secrets, what_travels

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
STOP_WAIT_SECONDS = 60
"""Ray's own 3 s are too few for a clean stop of the trials."""
RECONNECT_SECONDS, RECONNECTIONS = 5.0, 60
"""The log is asked for again so often before the following is given up; a port-forward drops now and then."""
_TRACKING = "MLFLOW_TRACKING_URI"
_STOPPED = 130
_TALKATIVE = (
    *("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"),
    *("ray._private.runtime_env.packaging", "ray._private.runtime_env.working_dir"),
)
"""Loggers of Ray that tell of every step; what goes wrong is raised besides."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A submitted job. address: of the cluster's job server."""

    address: str
    submission_id: str


def job_address(given: str | None) -> str:
    """The job server: as given, else RAY_API_SERVER_ADDRESS, else this machine's."""
    return given or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def submit(
    address: str,
    config: str | None,
    overrides: Sequence[str] = (),
    *,
    say: Say,
    working_dir: Path = Path(),
    submission_id: str | None = None,
    pass_on: Sequence[str] = (),
    wait: bool = False,
) -> Job:
    """Check the config and start the job; UserError for a bad config and a cluster that does not answer.

    pass_on: names of environment variables whose values the job gets. Whoever may see the cluster's jobs sees them, so
    names, values and a config that hold secrets are refused. MLflow's address goes too, unless it holds a password.
    wait: a job that finds another driver at this sweep waits for its end, as `icu-ray sweep --wait`.
    """
    root = working_dir.resolve()
    if not root.is_dir():
        raise UserError(f"--working-dir {working_dir}: no such folder")
    settings = load_config(find_config(config), overrides)
    arguments = [*([] if config is None else [_inside(config, root)]), *overrides]
    _refuse_secrets([*arguments, *_texts(settings.model_dump(mode="json"))], pass_on)
    _refuse_lost_storage(settings)
    _check_here(settings, say)
    chosen = submission_id or f"{settings.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    client = job_client(address)
    say(f"sending {root}: {what_travels(root)}")
    with explained(f"job {chosen} at {address}"):
        made = client.submit_job(
            entrypoint=entrypoint(arguments, wait),
            submission_id=chosen,
            runtime_env={"working_dir": str(root), "env_vars": _variables(root, pass_on, say)},
            metadata={"sweep": settings.name, "job_name": settings.name},  # the second is what Ray calls it
        )
    return Job(address, str(made))


def entrypoint(arguments: Sequence[str], wait: bool) -> str:
    """The job's shell command. arguments: config and overrides."""
    return shlex.join(["python", "-m", "icu_ray.sweep", *arguments, *(["--wait"] if wait else [])])


def _inside(config: str, root: Path) -> str:
    """How the job calls the config: by its path inside the working folder, or the name of a shipped one."""
    path = Path(config)
    if not path.is_file():
        return config
    if not path.resolve().is_relative_to(root):
        raise UserError(f"config {config}: is outside the working folder {root}, which is all that the job sees")
    return str(path.resolve().relative_to(root))


def _refuse_secrets(texts: Sequence[str], names: Sequence[str]) -> None:
    everybody = "which everybody who may see the cluster's jobs would see; set it in the cluster's own environment"
    known = known_secrets()
    for text in texts:
        shown = _shown(text, known)
        if shown != text:
            raise UserError(f"{shown}: holds a password or a key, {everybody}")
    for name in names:
        if is_secret_name(name):
            raise UserError(f"--env {name}: looks like a secret, {everybody}")
        if name not in os.environ:
            raise UserError(f"--env {name}: not set here")
        if _shown(os.environ[name], known) != os.environ[name]:
            raise UserError(f"--env {name}: its value holds a password or a key, {everybody}")


def _shown(text: str, known: Sequence[str]) -> str:
    """The text without secrets and without the `known` values."""
    for value in known:
        text = text.replace(value, "...")
    return without_secrets(text)


def _refuse_lost_storage(settings: SweepConfig) -> None:
    folder = local_path(settings.storage)
    if folder is not None and not folder.is_absolute():
        raise UserError(
            f"storage: {settings.storage} would be in the job's own copy of the working folder, which the cluster "
            "throws away; expected a URL (storage=s3://bucket/runs) or the absolute path of a folder that all nodes "
            "share"
        )


def _check_here(settings: SweepConfig, say: Say) -> None:
    """Plan the sweep without its storage; what is done already the driver finds out on the cluster."""
    elsewhere = [text for text in _texts(settings.model_dump(mode="json", exclude={"storage"})) if _not_here(text)]
    if elsewhere:
        say(f"{elsewhere[0]}: not on this machine, so models and data are checked on the cluster")
        return
    with tempfile.TemporaryDirectory(prefix="icu-ray-plan-") as nothing:
        plan_sweep(settings.model_copy(update={"storage": nothing}), dry_run=True)


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping | list):
        for item in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _texts(item)


def _not_here(text: str) -> bool:
    if is_hub_data(text):  # hub:/FOLDER#CONFIGURATION
        text = text.removeprefix(PREFIX).partition("#")[0]
    return text.startswith(("/", "~/")) and not Path(text).expanduser().exists()


def _variables(root: Path, names: Sequence[str], say: Say) -> dict[str, str]:
    """Environment of the job."""
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS)} | {name: os.environ[name] for name in names}
    uri = os.environ.get(_TRACKING, "")
    if uri.startswith(("http://", "https://")) and _TRACKING not in names:
        if without_secrets(uri) == uri:
            variables[_TRACKING] = uri
        else:
            say(f"{_TRACKING} is not sent, as it holds a password; set it in the cluster's own environment")
    # Only of the code that travels can be said which commit it is.
    code = code_version()
    if Path(icu_ray.__file__).resolve().parent.parent == root and not str(code["commit"]).startswith("files-"):
        variables[COMMIT_VARIABLE] = f"{code['commit']}{'+' if code['dirty'] else ''}"
    return variables


def follow(job: Job, say: Say) -> int:
    """Pass the job's output on until it ends; its exit code. An interruption of the following leaves the job alone."""
    import aiohttp

    said, tries = 0, 0

    async def tail() -> None:
        nonlocal said, tries
        known = said  # the server begins at the beginning each time
        async for text in client.tail_job_logs(job.submission_id):
            tries = 0
            fresh = text[known:]
            known = max(0, known - len(text))
            said += len(fresh)
            if fresh:
                say(fresh)

    client = job_client(job.address)
    while True:
        # A line that breaks closes the log like a job that ends, so the job itself is asked.
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            asyncio.run(tail())
            if (code := _exit_code(client.get_job_info(job.submission_id), say)) is not None:
                return code
        tries += 1
        if tries > RECONNECTIONS:
            raise UserError(
                f"job {job.submission_id}: {job.address} does not answer any more; the job continues by itself, "
                f"'icu-ray submit --attach {job.submission_id}' follows it again"
            )
        time.sleep(RECONNECT_SECONDS if tries > 1 else 0.2)


def _exit_code(found: Any, say: Say) -> int | None:
    """What the sweep ended with, None while it runs."""
    status = str(found.status.value)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return _STOPPED
    if status == "FAILED":
        if found.driver_exit_code is None:  # it never came to run, so its log does not say why
            say(f"{found.message}\n")
        return max(1, found.driver_exit_code or 1)  # a signal's is negative
    return None


def state(job: Job) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    client = job_client(job.address)
    with explained(f"job {job.submission_id} at {job.address}"):
        return str(client.get_job_status(job.submission_id).value)


def stop(job: Job) -> bool:
    """Ask the job to stop, which keeps what is finished; whether it was running."""
    client = job_client(job.address)
    with explained(f"job {job.submission_id} at {job.address}"):
        return bool(client.stop_job(job.submission_id))


def job_client(address: str) -> Any:
    """Ray's own client of a job server; UserError where none answers or it refuses."""
    authenticate()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address  # Ray lets this, and even RAY_ADDRESS, win over what it is given
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(
            f"the Ray job server at {address} refuses: {_first_line(error)}; set RAY_AUTH_TOKEN to the cluster's "
            "token, or RAY_AUTH_TOKEN_PATH to a file that holds it"
        ) from error
    except Exception as error:  # what a cluster that is not there raises depends on how it is not there
        raise UserError(
            f"no Ray job server answers at {address} ({_first_line(error)}); give --address http://HEAD:8265"
        ) from error
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Have what goes wrong between this machine and the job server said as a UserError."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:  # refused, unreadable working folder, gone
        raise UserError(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
