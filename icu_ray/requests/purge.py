"""Deleting the texts of requests that are done, wherever runs have left them; what stays can prove and not tell.

    found = purge(Path("ledger"), days=30.0)

Deleted: the requests' own files (texts/), the whole working folder (work/: the store with its rows and vectors; each
run's samples, generations, checkpoints, evaluated documents, logs, report; the files put together for attempts),
folders of killed runs among this machine's temporary files, and the runs that these sweeps have left in MLflow, with
their artefacts; and the models of versions that still know the texts (old_versions.py), so that a request that is
purged can be undone only where the version before it is the original. Kept: the ledger with keyed hashes and numbers,
evidence, the other models of versions/, and the original, which is named.

The entry 'purge started' comes first and 'purged' last, so a purge that was killed is finished by the next one, or by
the next run. Other requests lose the pages of their runs and what was ready in the store; nothing that they need.
"""

from __future__ import annotations

import calendar
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from icu_ray.cluster.temp_folder import remove_orphaned_folders
from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.registry import delete_sweep
from icu_ray.report.tracking.runs import SWEEP_ID_TAG
from icu_ray.report.tracking.tracker import tracking_uri
from icu_ray.requests.ledger import writing
from icu_ray.requests.ledger_settings import WORK
from icu_ray.requests.ledger_state import LedgerState, Request, state_of
from icu_ray.requests.ledger_texts import read_state, remove_orphans, texts_file
from icu_ray.requests.old_versions import mark, outdated, remove, still_know
from icu_ray.requests.runner import holding
from icu_ray.storage.processes import scratch_folder
from icu_ray.storage.trial_files import read_sweep

DAY = 86_400.0


def purge(folder: Path, *, days: float | None = None, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Delete the texts of requests that have been done (or undone) for `days`; default: as the ledger was made.

    {"requests": [...], "versions": [...], "texts": count, "places": [...], "files": requests' own files that still lie
    elsewhere, "unreached": places that could not be, "still_know": models that do, a sentence each}.
    """
    with holding(folder):
        state = read_state(folder)
        finished = finish_purge(folder, say)
        state = read_state(folder)
        wait = state.settings["purge_days"] if days is None else days
        due = [each.id for each in state.requests.values() if _is_due(each, wait)]
        versions = outdated(folder, state, due)
        if not due and not versions:
            with writing(folder) as book:  # what a killed writer has left may be texts too
                remove_orphans(folder, state_of(book.entries))
            nothing: dict[str, Any] = {"requests": [], "versions": [], "texts": 0, "places": [], "files": []}
            return finished or {**nothing, "unreached": [], "still_know": still_know(folder, state)}
        if state.open is not None:
            raise UserError(
                f"{folder}: attempt {state.open.number} was interrupted and needs the working folder; end it with "
                "'icu-ray requests run', or give it up with 'run --abandon'"
            )
        with writing(folder) as book:
            book.append("purge started", {"requests": due, "versions": list(versions)})
        return finish_purge(folder, say) or {}


def waits_until(request: Request, days: float) -> float | None:
    """From when on a request's texts may be deleted, in Unix seconds; None: not yet known."""
    if request.state not in ("done", "undone") or not request.held:
        return None
    return calendar.timegm(time.strptime(request.since, "%Y-%m-%dT%H:%M:%SZ")) + days * DAY


def _is_due(request: Request, days: float) -> bool:
    until = waits_until(request, days)
    return until is not None and until <= time.time()


def finish_purge(folder: Path, say: Callable[[str], None] = lambda line: None) -> dict[str, Any] | None:
    """Delete what a purge that has begun still has to; None where none has. Only for who holds the ledger."""
    state = read_state(folder)
    names, versions = list(state.purging), list(state.removing)
    if not names and not versions:
        return None
    places, unreached = _delete(folder, state, names, say)
    with writing(folder) as book:
        told: dict[str, Any] = {"requests": names, "versions": versions, "places": places, "unreached": unreached}
        book.append("purged", told)
        remove_orphans(folder, state_of(book.entries))
    requests = [state.requests[name] for name in names]
    left = [each.file for each in requests if Path(each.file).is_file()]
    known = still_know(folder, read_state(folder))
    return {**told, "texts": sum(len(each.texts) for each in requests), "files": left, "still_know": known}


def _delete(
    folder: Path, state: LedgerState, names: list[str], say: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """What was deleted, and what could not be reached."""
    places, unreached = [], []
    work = folder / WORK
    for run in sorted(work.glob("run-*")):
        sweep = read_sweep(str(work), run.name)
        for uri in [] if sweep is None else _tracked(sweep.config, work, state):
            assert sweep is not None
            where = f"MLflow at {without_secrets(uri)}"
            try:
                gone = delete_sweep(uri, sweep.id)
            except Exception as error:  # the texts here go all the same; where else they lie is said, and stays known
                what = without_secrets(f"{type(error).__name__}: {error}".partition("\n")[0])
                unreached.append(f"{where}: runs of {run.name}, tag {SWEEP_ID_TAG} = {sweep.id} ({what})")
                continue
            places += [f"{where}: {gone} runs of {run.name}"] if gone else []
    for name in names:
        if (own := texts_file(folder, name)).exists():
            own.unlink()
            places.append(str(own.relative_to(folder)))
    for part in sorted(work.iterdir()) if work.is_dir() else []:
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part)
        else:
            part.unlink()
        places.append(str(part.relative_to(folder)))
    removed, left = remove(folder, state)
    places += removed
    unreached += [*left, *mark(state)]
    with scratch_folder():  # which removes those that killed processes left
        pass
    places += [f"temporary folder {each.name}" for each in remove_orphaned_folders()]
    for place in places:
        say(f"deleted: {place}")
    for place in unreached:
        say(f"NOT deleted, could not be reached: {place}")
    return places, unreached


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
