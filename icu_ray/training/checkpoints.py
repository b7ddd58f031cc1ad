"""A trial's state after an epoch: engine, flags and history, in a folder that is either whole or refused.

    save_checkpoint(folder, engine, state)      # every rank, into its own copy of the folder or a shared one
    state = load_checkpoint(folder, engine)     # raises DamagedCheckpoint when a file is cut or missing

DeepSpeed cannot take up optimizer state at another number of workers (ZeRO >= 1) or another ZeRO stage; then only
weights are loaded and the history notes that the optimizer started anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.storage.el_names import by_field, plain
from icu_ray.storage.results import EpochRecord, Scores
from icu_ray.storage.store import stays_inside

if TYPE_CHECKING:
    from icu_ray.training.engine import Engine

FORMAT = 1
STATE_FILE = "trial_state.json"


class DamagedCheckpoint(Exception):
    """A checkpoint that must not be used; the one before it may be."""


@dataclass(frozen=True)
class TrialState:
    """Where a trial stands: epochs done, (N,) targets still active, history with epoch 0 first; method: what the method
    carries from step to step."""

    epoch: int
    active: NDArray[np.bool_]
    history: tuple[EpochRecord, ...]
    method: Mapping[str, float] = field(default_factory=dict)


def save_checkpoint(folder: Path, engine: Engine, state: TrialState) -> None:
    """Write this rank's part; the manifest of the rank comes last, so a cut write is seen."""
    folder.mkdir(parents=True, exist_ok=True)
    engine.save(folder)
    rank = engine.rank
    if rank == 0:
        content = {
            "format": FORMAT,
            "epoch": state.epoch,
            "active": [bool(flag) for flag in state.active],
            "history": [plain(record) for record in state.history],
            "world_size": engine.world_size,
            "zero_stage": engine.settings.zero_stage,
            **({"method": dict(state.method)} if state.method else {}),
        }
        (folder / STATE_FILE).write_text(json.dumps(content), encoding="utf-8")
    if engine.world_size > 1:
        torch.distributed.barrier()
    if rank == 0:
        files = {
            str(path.relative_to(folder)): [path.stat().st_size, _digest(path)]
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith("manifest")
        }
        (folder / "manifest.json").write_text(json.dumps(files), encoding="utf-8")


def check_checkpoint(folder: Path) -> None:
    """Raise DamagedCheckpoint when a file that the manifest names is missing, shorter or different."""
    manifest = folder / "manifest.json"
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in listed.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{manifest}: {error}") from error
    for name, (size, digest) in files.items():
        if not stays_inside(name):
            raise DamagedCheckpoint(f"{manifest}: names {name!r}, outside the checkpoint")
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpoint(f"{path}: missing")
        if path.stat().st_size != size or _digest(path) != digest:
            raise DamagedCheckpoint(f"{path}: cut or changed since it was written")


def load_checkpoint(folder: Path, engine: Engine) -> tuple[TrialState, tuple[str, ...]]:
    """Load into `engine`; returns the state and notes on what could not be taken over."""
    state, world_size = read_state(folder)
    stage, own = _stage(folder), engine.settings.zero_stage
    weights_only = stage != own or (own > 0 and world_size != engine.world_size)
    engine.load(folder, weights_only)
    notes: tuple[str, ...] = ()
    if weights_only:
        of, here = (f"{world_size}", f"{engine.world_size} workers")
        if stage != own:
            of, here = f"{world_size} at zero_stage={stage}", f"{here} at zero_stage={own}"
        notes = (f"continued on {here} from a checkpoint of {of}: weights taken over, optimizer started afresh",)
    return state, notes


def read_state(folder: Path) -> tuple[TrialState, int]:
    """State and world size of a checkpoint, after checking that it is whole."""
    check_checkpoint(folder)
    raw = _read(folder)
    if raw.get("format") != FORMAT:
        raise DamagedCheckpoint(f"{folder}: has format {raw.get('format')}, this version reads {FORMAT}")
    history = []
    for record in raw["history"]:
        record["scores"] = Scores(**by_field(record["scores"]))
        record["notes"] = tuple(record["notes"])
        history.append(EpochRecord(**record))
    state = TrialState(raw["epoch"], np.asarray(raw["active"], dtype=bool), tuple(history), raw.get("method", {}))
    return state, int(raw["world_size"])


def _stage(folder: Path) -> int:
    """The ZeRO stage that a checkpoint was written at."""
    return int(_read(folder)["zero_stage"])


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
