"""Looks at a machine, or a cluster, the way a sweep will: what is there, what is wrong, and how to mend it.

for finding in examine(storage="./runs"): print(finding.state, finding.what, finding.found, finding.remedy)
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icu_ray.errors import UserError
from icu_ray.store import check_writable, local_path
from icu_ray.tracking import tracking_uri, without_secrets

State = Literal["ok", "note", "bad"]
GIGABYTE = 1024**3
NEEDED_DISK, NEEDED_MEMORY = 5 * GIGABYTE, 6 * GIGABYTE
"""Of the quickstart; a sweep of real models wants what its models weigh, for every trial."""
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Finding:
    """state: ok; note: works with something missing; bad: a sweep will not run. remedy: '' where none is needed."""

    state: State
    what: str
    found: str
    remedy: str = ""


def examine(storage: str = "./runs", tracking: str | None = None) -> Iterator[Finding]:
    """Every check in turn; none of them raises."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _packages,
        _memory,
        lambda: _storage(storage),
        _shared_memory,
        _gpus,
        _deepspeed,
        _hub,
        lambda: _mlflow(storage, tracking),
        _ray,
    )
    for check in checks:
        try:
            yield check()
        except Exception as error:  # a check that breaks is a finding about the machine as well
            yield Finding("bad", check.__name__.strip("_<>"), f"{type(error).__name__}: {error}", "see the message")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info < (3, 13)
    return Finding("ok" if fits else "bad", "Python", found, "" if fits else "use Python 3.11 or 3.12")


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


def _memory() -> Finding:
    import psutil  # type: ignore[import-untyped]

    free = psutil.virtual_memory().available
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} CPU cores, {free / GIGABYTE:.1f} GiB of memory free"
    if free < NEEDED_MEMORY:
        return Finding("note", "machine", found, f"the quickstart wants {NEEDED_MEMORY // GIGABYTE} GiB")
    return Finding("ok", "machine", found)


def _storage(storage: str) -> Finding:
    try:
        check_writable(storage)
    except UserError as error:
        return Finding("bad", "storage", str(error), "give --storage a place that can be written")
    folder = local_path(storage)
    if folder is None:
        return Finding("ok", "storage", f"{without_secrets(storage)} can be written")
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    found = f"{storage} can be written, {free / GIGABYTE:.0f} GiB free"
    if free < NEEDED_DISK:
        return Finding("note", "storage", found, f"make room: {NEEDED_DISK // GIGABYTE} GiB are little enough")
    return Finding("ok", "storage", found)


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("note", "shared memory", "no /dev/shm", "Ray falls back to the disk, which is slow")
    free = shutil.disk_usage(folder).free
    found = f"{free / GIGABYTE:.1f} GiB free in /dev/shm"
    if free < GIGABYTE:
        return Finding("note", "shared memory", found, "in a container: --shm-size=2g or more")
    return Finding("ok", "shared memory", found)


def _gpus() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("note", "GPU", "none that torch can use", "stand-ins run without; real models want one")
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

    from icu_ray.training.engine import set_device_environment

    set_device_environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    import deepspeed

    found = f"DeepSpeed {deepspeed.__version__}"
    if not torch.cuda.is_available():
        return Finding("ok", "DeepSpeed", f"{found}, on CPU")
    compiler = shutil.which("nvcc") or shutil.which("g++")
    if compiler is None:
        return Finding("note", "DeepSpeed", f"{found}, no compiler", "offload_optimizer compiles CPUAdam: install g++")
    return Finding("ok", "DeepSpeed", f"{found}, {Path(compiler).name} to compile its operations")


def _hub() -> Finding:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Finding(
            "note", "model hub", "HF_HUB_OFFLINE is set", "models and tasks must lie in the cache or folders"
        )
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(endpoint, timeout=_TIMEOUT):
            return Finding("ok", "model hub", f"{endpoint} answers")
    except (OSError, ValueError) as error:
        remedy = "without it: local folders as models, 'icu-ray data mirror' for tasks; behind a proxy set HTTPS_PROXY"
        return Finding("note", "model hub", f"{endpoint} does not answer ({error})", remedy)


def _mlflow(storage: str, tracking: str | None) -> Finding:
    uri = tracking_uri(storage, tracking)
    shown = without_secrets(uri)
    if not uri.startswith(("http://", "https://")):
        return Finding("ok", "MLflow", f"runs go to {shown}")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT):
            return Finding("ok", "MLflow", f"{shown} answers")
    except urllib.error.HTTPError as error:
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN) as the server asks"
        return Finding("note", "MLflow", f"{shown} answers {error.code}", remedy)
    except (OSError, ValueError) as error:
        remedy = "start it, or unset MLFLOW_TRACKING_URI; runs are kept and sent later by 'icu-ray sync'"
        return Finding("note", "MLflow", f"{shown} does not answer ({error})", remedy)


def _ray() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("ok", "Ray", "RAY_ADDRESS is not set: a sweep starts a Ray of its own on this machine")
    from icu_ray.runtime import connected

    with connected() as cluster:
        nodes = cluster.nodes()
    gpus = sum(node.gpus for node in nodes)
    cpus = sum(node.cpus for node in nodes)
    return Finding(
        "ok", "Ray", f"{address}: {len(nodes)} nodes, or that many possible ones, {cpus:g} CPUs, {gpus:g} GPUs"
    )
