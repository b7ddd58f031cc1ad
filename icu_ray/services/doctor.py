"""Looks at a machine, or a cluster, the way a sweep will: what is there, what is wrong, and how to fix it.

for finding in examine(storage="./runs"): print(finding.state, finding.what, finding.found, finding.remedy)
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icu_ray.cluster.nodes import machine
from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.tracker import tracking_uri
from icu_ray.storage.files import check_writable, local_path

State = Literal["ok", "note", "bad"]
GIGABYTE = 1024**3
NEEDED_DISK, NEEDED_MEMORY = 5 * GIGABYTE, 6 * GIGABYTE
"""Of the quickstart; a sweep of real models wants what its models weigh, for every trial."""
_TIMEOUT = 10.0
_RAY_TIMEOUT = 60.0
"""Ray itself gives up a cluster that does not let it in after about half a minute."""


@dataclass(frozen=True)
class Finding:
    """state: ok; note: works with something missing; bad: a sweep will not run. remedy: '' where none is needed."""

    state: State
    what: str
    found: str
    remedy: str = ""


def examine(storage: str = "./runs", tracking: str | None = None) -> Iterator[Finding]:
    """Every check in turn; none of them raises."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("Python", _python),
        ("packages", _packages),
        ("machine", _machine),
        ("storage", lambda: _storage(storage)),
        ("shared memory", _shared_memory),
        ("GPU", _gpus),
        ("DeepSpeed", _deepspeed),
        ("model hub", _hub),
        ("MLflow", lambda: _mlflow(storage, tracking)),
        ("Ray", _ray),
    )
    for what, check in checks:
        try:
            yield check()
        except Exception as error:  # a check that breaks is a finding about the machine as well
            yield Finding("bad", what, _said(error), "pip install -r requirements.lock, then look again")


def _said(error: BaseException) -> str:
    """An exception in one line, without secrets."""
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return without_secrets(f"{type(error).__name__}: {line}" if line else type(error).__name__)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info[:2] == (3, 11)
    return Finding("ok" if fits else "bad", "Python", found, "" if fits else "use Python 3.11")


def _packages() -> Finding:
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("icu-ray") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append(f"{wanted.name} {version}, expected {wanted.specifier}")
    if wrong:
        return Finding("bad", "packages", "; ".join(wrong), "pip install -r requirements.lock")
    shown = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ray", "torch", "transformers"))
    return Finding("ok", "packages", shown)


def _machine() -> Finding:
    import psutil  # type: ignore[import-untyped]

    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # a container's share, where it has one
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, limit - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    found = f"{machine().cpus:g} CPU cores, {free / GIGABYTE:.1f} GiB of memory free"
    if free < NEEDED_MEMORY:
        return Finding("note", "machine", found, f"the quickstart wants {NEEDED_MEMORY // GIGABYTE} GiB of memory")
    return Finding("ok", "machine", found)


def _storage(storage: str) -> Finding:
    try:
        check_writable(storage)
    except UserError as error:
        said = without_secrets(str(error)).removeprefix("storage ").partition("; ")[0]
        return Finding("bad", "storage", said, "set storage to a folder or URL that can be written")
    folder = local_path(storage)
    if folder is None:
        return Finding("ok", "storage", f"{without_secrets(storage)} can be written")
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{storage} can be written, {free / GIGABYTE:.0f} GiB free"
    if free < NEEDED_DISK:
        remedy = f"make room: the quickstart wants {NEEDED_DISK // GIGABYTE} GiB, real models what they weigh a trial"
        return Finding("note", "storage", found, remedy)
    return Finding("ok", "storage", found)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("note", "shared memory", "no /dev/shm", "mount one; without it Ray uses the disk, which is slow")
    free = shutil.disk_usage(folder).free
    found = f"{free / GIGABYTE:.1f} GiB free in /dev/shm"
    if free < GIGABYTE:
        return Finding("note", "shared memory", found, "in a container: --shm-size=2g or more")
    return Finding("ok", "shared memory", found)


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(
            "note", "GPU", "none that torch can use", "stand-ins run without one; real models should have one"
        )
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    nccl = "missing"
    if torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    found = f"{len(names)} x {names[0]}, CUDA {torch.version.cuda}, NCCL {nccl}"
    if nccl == "missing":
        return Finding("bad", "GPU", found, "install a torch build with NCCL; trials of several GPUs need it")
    bf16 = torch.cuda.is_bf16_supported()
    return Finding("ok" if bf16 else "note", "GPU", found, "" if bf16 else "no bf16 here: set precision: fp32")


def _deepspeed() -> Finding:
    import torch

    from icu_ray.training.engine import deepspeed_version
    from icu_ray.training.offload import CannotCompile, build_cpu_adam

    found = f"version {deepspeed_version()}"
    if not torch.cuda.is_available():
        return Finding("ok", "DeepSpeed", f"{found}, on CPU")
    try:
        build_cpu_adam()
    except CannotCompile as error:
        said = f"{found}, its Adam for offload_optimizer does not compile: {error.reason}"
        return Finding("note", "DeepSpeed", said, error.remedy)
    return Finding("ok", "DeepSpeed", f"{found}, its Adam for offload_optimizer is compiled")


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        remedy = "models must be in the cache or in folders, tasks in a mirror ('icu-ray data mirror')"
        return Finding("note", "model hub", "HF_HUB_OFFLINE is set", remedy)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(endpoint, timeout=_TIMEOUT):
            return Finding("ok", "model hub", f"{without_secrets(endpoint)} answers")
    except (OSError, ValueError, http.client.HTTPException) as error:
        remedy = "without it: folders as models, 'icu-ray data mirror' for tasks; behind a proxy set HTTPS_PROXY"
        return Finding("note", "model hub", f"{without_secrets(endpoint)} does not answer ({_said(error)})", remedy)


def _mlflow(storage: str, tracking: str | None) -> Finding:
    uri = tracking_uri(storage, tracking)
    shown = without_secrets(uri)
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme == "file" and uri != "databricks":
        return Finding(
            "note", "MLflow", f"{shown} is a folder, which MLflow no longer writes to", "use sqlite:///FILE or a server"
        )
    if scheme not in ("http", "https"):
        return Finding("ok", "MLflow", f"runs go to {shown}")
    try:
        with urllib.request.urlopen(_health(uri), timeout=_TIMEOUT):
            return Finding("ok", "MLflow", f"{shown} answers")
    except urllib.error.HTTPError as error:
        remedy = "give the server --allowed-hosts with this host and port, or look at what is in front of it"
        if error.code in (401, 403):
            remedy = "set MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN; " + remedy
        return Finding("note", "MLflow", f"{shown} answers {error.code} {error.reason}", remedy)
    except (http.client.InvalidURL, ValueError):  # it would quote the address, which holds the password perhaps
        remedy = "write /, ?, # and @ of a password as %2F, %3F, %23, %40"
        return Finding("note", "MLflow", f"{shown} is not the address of a server", remedy)
    except (OSError, http.client.HTTPException) as error:
        remedy = "start it, or unset MLFLOW_TRACKING_URI; runs are kept and sent later by 'icu-ray sync'"
        return Finding("note", "MLflow", f"{shown} does not answer ({_said(error)})", remedy)


def _health(uri: str) -> urllib.request.Request:
    """MLflow's own question whether it is well, with the credentials that a sweep would use."""
    parts = urllib.parse.urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    url = urllib.parse.urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/health", "", ""))
    request = urllib.request.Request(url)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or urllib.parse.unquote(parts.username or "")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or urllib.parse.unquote(parts.password or "")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    elif user:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    return request


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("ok", "Ray", "RAY_ADDRESS is not set: a sweep starts its own Ray on this machine")
    remedy = "start the cluster, set RAY_ADDRESS to HOST:PORT of its head as 'ray start' says it, or unset it"
    host, _, port = address.rpartition(":")
    if "://" in address:
        shown = without_secrets(address)
        return Finding("bad", "Ray", f"{shown} is not HOST:PORT; job servers are for 'icu-ray submit'", remedy)
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=_TIMEOUT).close()
        except OSError as error:
            return Finding("bad", "Ray", f"{address} does not answer ({_said(error)})", remedy)
    # Ray asks for long, loudly, and may take its process with it.
    code = "from icu_ray.services.doctor import count_nodes; count_nodes()"
    try:
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_RAY_TIMEOUT)
    except subprocess.TimeoutExpired:
        return Finding("bad", "Ray", f"{address}: no Ray answers there", remedy)
    if asked.returncode:
        errors = [line for line in asked.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception): ", line)]
        said = without_secrets(errors[-1]) if errors else f"connecting ended with code {asked.returncode}"
        remedy = "set RAY_AUTH_TOKEN to the cluster's token; use the cluster's versions of Python and Ray"
        return Finding("bad", "Ray", f"{address}: {said}", remedy)
    count, cpus, gpus = json.loads(asked.stdout.splitlines()[-1])
    found = f"{address}: up to {count} node{'s' * (count != 1)} with {cpus:g} CPUs and {gpus:g} GPUs together"
    return Finding("ok", "Ray", found)


def count_nodes() -> None:
    """Print [nodes, CPUs, GPUs] of the cluster at RAY_ADDRESS as JSON, nodes that its autoscaler may add among them."""
    from icu_ray.cluster.runtime import connected

    with connected() as cluster:
        nodes = cluster.nodes()
    sys.stdout.write(f"\n{json.dumps([len(nodes), sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)])}\n")
