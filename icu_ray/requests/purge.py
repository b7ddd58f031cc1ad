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

What cannot be reached (a server that is away, a file of another user) holds nothing up. It is entered into the ledger
before the run's folder is deleted, which alone tells of it. There it stays until a later purge has reached it, or
somebody says that it was deleted by hand; purge, verify, list, show and the request's page name it.
"""

from __future__ import annotations

import calendar
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icu_ray.cluster.temp_folder import remove_orphaned_folders
from icu_ray.errors import UserError
from icu_ray.requests.deleting import delete_files, delete_runs
from icu_ray.requests.ledger import writing
from icu_ray.requests.ledger_settings import WORK
from icu_ray.requests.ledger_state import LedgerState, Request, state_of
from icu_ray.requests.ledger_texts import read_state, remove_orphans, texts_file
from icu_ray.requests.old_versions import mark, moved, outdated, remove, still_know
from icu_ray.requests.runner import holding
from icu_ray.requests.unreached import Unreached
from icu_ray.storage.processes import scratch_folder

DAY = 86_400.0


def purge(
    folder: Path, *, days: float | None = None, by_hand: bool = False, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Delete the texts of requests that have been done (or undone) for `days`; default: as the ledger was made.

    What earlier purges could not reach is tried again. by_hand: what of it is then left was deleted by hand.

    {"requests": [...], "versions": [...], "texts": count, "places": [...], "files": requests' own files that still lie
    elsewhere, "unreached": places that could not be, of this purge and earlier ones, "by_hand": those that were deleted
    so, "unmarked": entries of MLflow's model registry without their tag, where no text lies and which the next run
    tries again, "still_know": models that do, a sentence each}.
    """
    with holding(folder):
        before = read_state(folder).unreached
        finished = finish_purge(folder, say)
        state = read_state(folder)
        wait = state.settings["purge_days"] if days is None else days
        due = [each.id for each in state.requests.values() if _is_due(each, wait)]
        versions = outdated(folder, state, due)
        if due or versions:
            if state.open is not None:
                raise UserError(
                    f"{folder}: attempt {state.open.number} was interrupted and needs the working folder; end it with "
                    "'icu-ray requests run', or give it up with 'run --abandon'"
                )
            with writing(folder) as book:
                book.append("purge started", {"requests": due, "versions": list(versions)})
            finished = finish_purge(folder, say)
        else:
            with writing(folder) as book:  # what a killed writer has left may be texts too
                remove_orphans(folder, state_of(book.entries))
        told = finished or _tried_again(folder, say)
        cleared = _by_hand(folder, before) if by_hand else []
        return {**told, "unreached": [said for said in told["unreached"] if said not in cleared], "by_hand": cleared}


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
    work = folder / WORK
    places, left = delete_runs(folder, state, sorted(work.glob("run-*")))
    left += moved(folder, state)
    # Nothing but what is deleted next tells of these.
    _enter(folder, state, (*left, *(each for each in state.unreached if each.path is not None)))
    state = read_state(folder)
    own = [texts_file(folder, name) for name in names]
    gone, stuck = delete_files(folder, state, [*own, *(sorted(work.iterdir()) if work.is_dir() else ())])
    removed, more = remove(folder, state)
    places += [*gone, *removed]
    left = list(dict.fromkeys((*left, *stuck, *more)))
    unreached, unmarked = [each.said for each in left], mark(state)
    with scratch_folder():  # which removes those that killed processes left
        pass
    places += [f"temporary folder {each.name}" for each in remove_orphaned_folders()]
    with writing(folder) as book:
        told: dict[str, Any] = {"requests": names, "versions": versions, "places": places, "unreached": unreached}
        book.append("purged", {**told, "not_reached": _plain(left)})
        remove_orphans(folder, state_of(book.entries))
    _say(places, unreached, say)
    requests = [state.requests[name] for name in names]
    files = [each.file for each in requests if Path(each.file).is_file()]
    known = still_know(folder, read_state(folder))
    told |= {"unmarked": unmarked, "texts": sum(len(each.texts) for each in requests)}
    return {**told, "files": files, "still_know": known}


def _tried_again(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """What earlier purges could not reach, where nothing is due."""
    state = read_state(folder)
    nothing: dict[str, Any] = {"requests": [], "versions": [], "texts": 0, "places": [], "files": [], "unreached": []}
    nothing |= {"unmarked": [], "still_know": still_know(folder, state)}
    if not state.unreached:
        return nothing
    places, left = delete_runs(folder, state, ())
    gone, stuck = delete_files(folder, state, ())
    _enter(folder, state, (*left, *stuck))
    unreached = [each.said for each in (*left, *stuck)]
    _say([*places, *gone], unreached, say)
    return {**nothing, "places": [*places, *gone], "unreached": unreached}


def _by_hand(folder: Path, before: Sequence[Unreached]) -> list[str]:
    """Places that this purge could not reach either, and that whoever calls it has deleted: it takes their word for
    what lies elsewhere, and not for files that it sees."""
    state = read_state(folder)
    cleared = [
        each
        for each in state.unreached
        if each in before and not (each.path is not None and os.path.lexists(folder / each.path))
    ]
    said = [each.said for each in cleared]
    _enter(folder, state, [each for each in state.unreached if each not in cleared], by_hand=said)
    return said


def _enter(folder: Path, state: LedgerState, left: Sequence[Unreached], **more: Any) -> None:
    """Enter what purges could not reach until now, where that has changed."""
    found = tuple(dict.fromkeys(left))
    if set(found) != set(state.unreached):
        with writing(folder) as book:
            book.append("not reached", {"not_reached": _plain(found), **more})


def _plain(left: Sequence[Unreached]) -> list[dict[str, Any]]:
    return [asdict(each) for each in left]


def _say(places: Sequence[str], unreached: Sequence[str], say: Callable[[str], None]) -> None:
    for place in places:
        say(f"deleted: {place}")
    for place in unreached:
        say(f"NOT deleted, could not be reached: {place}")
