"""The versions of a ledger's model: folder versions/N with the model or adapter that a run left, and its record.

model_of(folder, state, state.current)          # folder or hub id; version 0 is the original
keep(folder, number, made, told)                # appears whole, or not at all

versions/N/model/            what AutoModelForCausalLM.from_pretrained takes
          /version.json      number, base (the version before it), requests, SHA-256 of both models
          /record.json, record.html    of the run that made it
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.models.folders import adapter_of
from icu_ray.requests.ledger_state import LedgerState
from icu_ray.storage.files import sync_folder
from icu_ray.storage.results import to_json

VERSIONS = "versions"


def version_folder(folder: Path, number: int) -> Path:
    """The folder of a version."""
    return folder / VERSIONS / str(number)


def model_of(folder: Path, state: LedgerState, number: int) -> str:
    """A version's model as a source, from the root: adapters and records name it."""
    if number == 0:
        return str(state.settings["model"])
    return str((version_folder(folder, number) / "model").absolute())


def check_model(folder: Path, state: LedgerState, number: int) -> None:
    """UserError unless a version's model, and the record beside it that names the first original, are there and as they
    were made. The original is checked by the run's config.
    """
    if number and not state.versions[number].held:
        raise UserError(
            f"version {number}: its model was deleted by a purge, for it still knew texts that were deleted; expected "
            "the version in force, or another in which all purged requests are forgotten"
        )
    trouble = model_trouble(folder, state, number) or files_trouble(folder, state, number)
    if trouble:
        raise UserError(f"{trouble}; expected the model that the ledger names")


def adapter_base(model: Path) -> Path | None:
    """The folder of the model that an adapter is for; None for whole models, and for adapters on a model of the hub."""
    adapter = adapter_of(model, f"model {model}")
    return None if adapter is None or not Path(adapter.base).is_dir() else Path(adapter.base).resolve()


def model_trouble(folder: Path, state: LedgerState, number: int) -> str:
    """What is wrong with a version's model, '' for nothing."""
    if number and not state.versions[number].held:
        return ""
    if number == 0:
        model, wanted = Path(state.settings["model"]), state.settings["model_sha256"]
        if not model.is_dir():
            return ""  # of the hub: it is known by its commit
    else:
        model, wanted = Path(model_of(folder, state, number)), state.versions[number].sha256
    what = "the original model" if number == 0 else f"version {number}"
    if not model.is_dir():
        return f"{model}: {what} is not there"
    found = folder_fingerprint(model)
    return (
        "" if found == wanted else f"{model}: {what} is another model than the ledger names (SHA-256 {found[:16]}...)"
    )


def files_told(version: Path) -> dict[str, str]:
    """SHA-256 of the files beside a version's model."""
    return {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted(version.iterdir()) if each.is_file()
    }


def files_trouble(folder: Path, state: LedgerState, number: int) -> str:
    """What is wrong with the files beside a version's model, '' for nothing."""
    for name, wanted in state.versions[number].files.items() if number else ():
        file = version_folder(folder, number) / name
        if not file.is_file():
            return f"{file}: is not there"
        if hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
            return f"{file}: is another file than the ledger names (changed)"
    return ""


def left_versions(folder: Path, state: LedgerState, attempts: Collection[int]) -> list[int]:
    """Numbers of versions that no entry names, made by one of these attempts."""
    found = []
    for place in (folder / VERSIONS).glob("*/version.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(place.read_bytes())
            if int(place.parent.name) not in state.versions and told["attempt"] in attempts:
                found.append(int(place.parent.name))
    return found


def keep(folder: Path, number: int, model: Path, told: Mapping[str, Any], files: Mapping[str, bytes]) -> Path:
    """Make versions/N of a run's model. One that a killed run left there is made anew.

    The weights are linked where the file system can, so that they take no room twice.
    """
    target = version_folder(folder, number)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_halves(folder)
    if target.exists():
        shutil.rmtree(target)
    staging = target.parent / f".{number}-{uuid.uuid4().hex[:8]}.tmp"
    staging.mkdir()
    shutil.copytree(model, staging / "model", copy_function=_link_or_copy)
    (staging / "version.json").write_bytes(to_json(dict(told), indent=2))
    for name, content in files.items():
        (staging / name).write_bytes(content)
    os.rename(staging, target)
    sync_folder(target.parent)
    return target


def remove_halves(folder: Path) -> None:
    """Remove versions that were not made to their end."""
    for half in (folder / VERSIONS).glob(".*.tmp"):
        shutil.rmtree(half)


def read_version(folder: Path, number: int) -> dict[str, Any]:
    """version.json."""
    found: dict[str, Any] = json.loads((version_folder(folder, number) / "version.json").read_bytes())
    return found


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
