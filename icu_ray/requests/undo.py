"""Taking a request back that was entered by mistake: the model goes back to the version before it.

    told = undo(Path("ledger"), "r2")           # {"request": "r2", "back_to": 1, "waiting": ["r3"]}

Requests that came later, or were run together with it, wait again: the next run applies them to the version in force.
No entry is removed, and no version (purge.py does that). A request that only waits is taken back, and the model stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icu_ray.errors import UserError, did_you_mean
from icu_ray.requests.evidence import remove_given_up
from icu_ray.requests.ledger import writing
from icu_ray.requests.ledger_state import LedgerState, state_of
from icu_ray.requests.purge import finish_purge
from icu_ray.requests.runner import holding
from icu_ray.requests.versions import check_model


def known_request(state: LedgerState, name: str) -> str:
    """The name itself; UserError where no request has it."""
    if name not in state.requests:
        known = ", ".join(state.requests) or "none"
        raise UserError(f"{name}: no such request{did_you_mean(name, state.requests)}; known: {known}")
    return name


def undo(folder: Path, request: str) -> dict[str, Any]:
    """Take a request back. UserError where requests that would have to be applied again are purged, or the model of the
    version before it is."""
    with holding(folder):
        finish_purge(folder)
        with writing(folder) as book:
            state = state_of(book.entries)
            known = state.requests[known_request(state, request)]
            if known.state == "undone":
                raise UserError(f"{request}: is undone already, since {known.since}")
            back_to = _before(state, request)
            covered = state.covers(back_to)
            again = [name for name in state.covers(state.current) if name != request and name not in covered]
            gone = [name for name in again if not state.requests[name].held]
            if gone:
                raise UserError(
                    f"{request}: to undo it, {', '.join(gone)} would have to be applied again to version {back_to}, "
                    "and their texts are purged"
                )
            if back_to and not state.versions[back_to].held:
                raise UserError(
                    f"{request}: its texts are purged, and with them the model of version {back_to}, which still knew "
                    "them: it cannot be undone any more"
                )
            check_model(folder, state, back_to)
            if state.open is not None and (request in state.open.requests or back_to != state.current):
                book.append("run abandoned", {"attempt": state.open.number})
            told = {"request": request, "back_to": back_to, "waiting": again}
            book.append("undone", told)
            remove_given_up(folder, state_of(book.entries))
            return told


def _before(state: LedgerState, request: str) -> int:
    """The version before a request was applied; the current one where it is not."""
    found = state.current
    while request in state.covers(found):
        found = state.versions[found].base
    return found
