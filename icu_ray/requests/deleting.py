"""What a purge deletes, place by place; what it could not reach is named, kept in the ledger and tried by the next one.

    places, left = delete_runs(folder, state, runs)     # of sweeps, in MLflow
    places, left = delete_files(folder, state, parts)   # in the ledger's folder

Nothing that cannot be reached holds up the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.registry import delete_sweep
from icu_ray.report.tracking.runs import SWEEP_ID_TAG
from icu_ray.report.tracking.tracker import tracking_uri
from icu_ray.requests.ledger_settings import WORK
from icu_ray.requests.ledger_state import LedgerState
from icu_ray.requests.ledger_texts import TEXTS
from icu_ray.requests.unreached import Unreached
from icu_ray.storage.trial_files import read_sweep


def delete_runs(folder: Path, state: LedgerState, runs: Iterable[Path]) -> tuple[list[str], list[Unreached]]:
    """Delete what these runs' sweeps have left in MLflow, and what earlier purges could not reach there."""
    work, may_lie = folder / WORK, _may_lie_in_runs(state)
    places, left = [], [each for each in state.unreached if each.path is None and each.mlflow is None]
    known = {(each.mlflow, each.sweep): each for each in state.unreached if each.mlflow is not None}
    here = tracking_uri(str(work))  # which may have the credentials that the ledger does not keep
    sent = {
        (address, sweep): (here if without_secrets(here) == address else address, f"tag {SWEEP_ID_TAG} = {sweep}")
        for address, sweep in known
    }
    for run in runs:
        try:
            sweep = read_sweep(str(work), run.name)
        except (OSError, UserError) as error:
            said = f"MLflow: whether runs of {run.name} were sent to MLflow is not known ({_in_a_line(error)})"
            left.append(Unreached(said, may_lie))
            continue
        for uri in [] if sweep is None else _tracked(sweep.config, work, state):
            assert sweep is not None
            sent[without_secrets(uri), sweep.id] = uri, run.name
    for (address, sweep_id), (uri, name) in sent.items():
        assert address is not None and sweep_id is not None
        try:
            gone = delete_sweep(uri, sweep_id)
        except Exception as error:  # the texts here go all the same; where else they lie is said, and stays known
            said = f"MLflow at {address}: runs of {name}, tag {SWEEP_ID_TAG} = {sweep_id} ({_in_a_line(error)})"
            new = Unreached(said, may_lie, mlflow=address, sweep=sweep_id)
            left.append(known.get((address, sweep_id), new))
            continue
        places += [f"MLflow at {address}: {gone} runs of {name}"] if gone else []
    return places, left


def delete_files(folder: Path, state: LedgerState, parts: Iterable[Path]) -> tuple[list[str], list[Unreached]]:
    """Delete these files and folders of the ledger, and what earlier purges could not. An attempt that is open needs
    the working folder, so what is left there waits for its end. What is not the ledger's is looked for alone."""
    places, left, earlier = [], [], {each.path: each for each in state.unreached if each.path is not None}
    names = [str(part.relative_to(folder)) for part in parts]
    for name in dict.fromkeys((*names, *earlier)):
        part = folder / name
        if not os.path.lexists(part):
            continue
        if os.path.isabs(name) or (state.open is not None and part.is_relative_to(folder / WORK)):
            left.append(earlier[name])
        elif not (trouble := deleted(part)):
            places.append(name)
        elif name not in names:
            left.append(earlier[name])
        else:
            requests = (part.stem,) if part.parent == folder / TEXTS else _may_lie_in_runs(state)
            before = earlier[name].requests if name in earlier else ()  # which may be purged by now
            left.append(Unreached(f"{name}: {trouble}", tuple(dict.fromkeys((*before, *requests))), path=name))
    return places, left


def _may_lie_in_runs(state: LedgerState) -> tuple[str, ...]:
    """Requests whose texts may lie in what runs have left until now: any run may hold those of several."""
    return tuple(each.id for each in state.requests.values() if each.attempts and not each.purged)


def deleted(part: Path) -> str:
    """Delete a file, or a folder as far as it can be, if it is there; why something is left, '' for nothing."""
    if not os.path.lexists(part):
        return ""
    try:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):  # that stopped at the first file that cannot be deleted
            shutil.rmtree(part, ignore_errors=True)
        if not os.path.lexists(part):
            return ""
        files = sorted(str(each.relative_to(part)) for each in part.rglob("*") if not each.is_dir())
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        return f"{error.strerror or error}" + (f" ({files[0]}{more})" if files else "")
    return ""


def _in_a_line(error: Exception) -> str:
    return without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0])


def _tracked(config: Any, work: Path, state: LedgerState) -> list[str]:
    """Where a sweep's runs may have been sent: by the ledger's entries, and by what holds here.

    Not into the working folder itself, which goes as a whole. Credentials are those of this environment.
    """
    told = config.get("tracking") or {}
    if not told.get("enabled"):
        return []
    here = tracking_uri(str(work), told.get("uri"))
    known = [uri for attempt in state.attempts.values() for uri in attempt.tracked if uri != without_secrets(here)]
    own = f"sqlite:///{work.resolve() / 'mlflow.db'}"
    return [uri for uri in dict.fromkeys((here, *known)) if uri != own]
