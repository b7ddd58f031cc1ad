"""What a ledger's entries come to: requests with their states, attempts, model versions. Pure values, no files.

    state = state_of(chain.entries)
    state.requests["r1"].state                  # "waiting", "running", "done", "not acceptable" or "undone"

Nothing of it is stored: it follows from the entries alone. Kinds of entries, and what they tell:

    made            the settings of all its runs, and the original model
    added           request, subject, due, file, form (how its rows are written), texts: a list of {id, hmac}
    run started     attempt, requests, base (a version; 0: the original), overrides
    tracked         attempt, mlflow: an address, without credentials, to which its sweep sends runs
    run failed      attempt, requests, not_carried_out: what failed beside its trial and is tried once more, with why
    evidence        request, attempt, evidence: SHA-256 of its record, for a bundle; nothing follows from it here
    run ended       attempt, outcome, done, left, version, not_carried_out, and what was measured (requests/evidence.py)
    run abandoned   attempt
    undone          request, back_to (a version), waiting
    purge started   requests, versions (whose models go with the texts); then purged: requests, versions, places
    not reached     not_reached: all places that purges could not reach until now (unreached.py); 'purged' has it too
    registered      version, registry (MLflow's name and number)
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from icu_ray.requests.ledger import Entry
from icu_ray.requests.unreached import Unreached, unreached_of

State = Literal["waiting", "running", "done", "not acceptable", "undone"]


@dataclass(frozen=True)
class Request:
    """One request. since: when it came into its state. version: that made it done. form: how the rows of its file are
    written. texts: {id, hmac} of each.

    purging, purged: whether its texts are being deleted, or are gone; then nothing can be done with them any more.
    """

    id: str
    added: str
    subject: str | None
    due: str | None
    file: str
    form: Mapping[str, Any]
    texts: tuple[Mapping[str, str], ...]
    state: State
    since: str
    version: int | None = None
    attempts: tuple[int, ...] = ()
    purging: bool = False
    purged: bool = False

    @property
    def held(self) -> bool:
        """Whether the ledger still has its texts."""
        return not (self.purging or self.purged)


@dataclass(frozen=True)
class Attempt:
    """One run of one trial. ended: what its 'run ended' entry tells; None while it runs, or after it was abandoned.

    tracked: addresses of MLflow, without credentials, to which it has sent runs. failed: attacks and tasks that have
    failed once, by name (requests/ending.py).
    """

    number: int
    requests: tuple[str, ...]
    base: int
    overrides: tuple[str, ...]
    started: Entry
    ended: Mapping[str, Any] | None = None
    abandoned: bool = False
    tracked: tuple[str, ...] = ()
    failed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Version:
    """A model that some requests made. base: the version it was made of. requests: those that it made done.

    files: SHA-256 of what lies beside its model, by name; {} in ledgers from before. purging, purged: whether its model
    is being deleted, or is gone.
    """

    number: int
    base: int
    attempt: int
    requests: tuple[str, ...]
    sha256: str
    made: str
    registry: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    purging: bool = False
    purged: bool = False

    @property
    def held(self) -> bool:
        """Whether the ledger still has its model."""
        return not (self.purging or self.purged)


@dataclass(frozen=True)
class LedgerState:
    """All of a ledger. current: the version in force; 0: the original. purging: requests of a purge that was killed.

    unreached: what purges could not reach, and nobody has deleted since.
    """

    settings: Mapping[str, Any]
    requests: Mapping[str, Request] = field(default_factory=dict)
    attempts: Mapping[int, Attempt] = field(default_factory=dict)
    versions: Mapping[int, Version] = field(default_factory=dict)
    current: int = 0
    unreached: tuple[Unreached, ...] = ()

    def not_reached(self, request: str) -> list[str]:
        """Places where the texts of a request that is purged may still lie."""
        purged = self.requests[request].purged
        return [each.said for each in self.unreached if purged and request in each.requests]

    @property
    def open(self) -> Attempt | None:
        """The attempt that runs, or was killed."""
        return next((each for each in self.attempts.values() if each.ended is None and not each.abandoned), None)

    @property
    def purging(self) -> tuple[str, ...]:
        """Requests whose purge has begun and not ended."""
        return tuple(each.id for each in self.requests.values() if each.purging)

    @property
    def removing(self) -> tuple[int, ...]:
        """Versions whose removal has begun and not ended."""
        return tuple(each.number for each in self.versions.values() if each.purging)

    def lineage(self, number: int) -> tuple[Version, ...]:
        """The versions that one comes from, itself the last; () for the original."""
        found: list[Version] = []
        while number:
            found.append(self.versions[number])
            number = found[-1].base
        return tuple(reversed(found))

    def covers(self, number: int) -> tuple[str, ...]:
        """Requests that are forgotten in a version."""
        return tuple(request for version in self.lineage(number) for request in version.requests)

    def in_state(self, *states: State) -> tuple[Request, ...]:
        """Requests in one of these states, those due first, then the older ones."""
        found = [each for each in self.requests.values() if each.state in states]
        return tuple(sorted(found, key=lambda each: (each.due or "9999", list(self.requests).index(each.id))))


def state_of(entries: Sequence[Entry]) -> LedgerState:
    """Entry by entry, from a chain that was checked."""
    state = LedgerState(settings=entries[0].told)
    for entry in entries[1:]:
        state = _THEN[entry.kind](state, entry)
    return state


def _with(state: LedgerState, names: Sequence[str], /, **changes: Any) -> dict[str, Request]:
    return {**state.requests, **{name: replace(state.requests[name], **changes) for name in names}}


def requested(told: Mapping[str, Any], time: str) -> Request:
    """A request as its entry 'added' tells it."""
    # Ledgers from before may have 20261224, which stands before any day with dashes.
    due = told["due"] and datetime.date.fromisoformat(told["due"]).isoformat()
    named = (told["request"], time, told["subject"], due, told["file"], told["form"])
    return Request(*named, tuple(told["texts"]), "waiting", time)


def _added(state: LedgerState, entry: Entry) -> LedgerState:
    request = requested(entry.told, entry.time)
    return replace(state, requests={**state.requests, request.id: request})


def _started(state: LedgerState, entry: Entry) -> LedgerState:
    told = entry.told
    number, names = told["attempt"], tuple(told["requests"])
    attempt = Attempt(number, names, told["base"], tuple(told["overrides"]), entry)
    requests = dict(state.requests)
    for name in names:
        known = requests[name]
        requests[name] = replace(known, state="running", attempts=(*known.attempts, number))
    return replace(state, requests=requests, attempts={**state.attempts, number: attempt})


def _tracked(state: LedgerState, entry: Entry) -> LedgerState:
    attempt = state.attempts[entry.told["attempt"]]
    attempt = replace(attempt, tracked=(*attempt.tracked, entry.told["mlflow"]))
    return replace(state, attempts={**state.attempts, attempt.number: attempt})


def _failed(state: LedgerState, entry: Entry) -> LedgerState:
    attempt = state.attempts[entry.told["attempt"]]
    attempt = replace(attempt, failed=attempt.failed.union(entry.told["not_carried_out"]))
    return replace(state, attempts={**state.attempts, attempt.number: attempt})


def _ended(state: LedgerState, entry: Entry) -> LedgerState:
    told = entry.told
    attempt = replace(state.attempts[told["attempt"]], ended=told)
    state = replace(state, attempts={**state.attempts, attempt.number: attempt})
    if told["version"] is None:
        return _settled(state, attempt.requests, entry.time, "not acceptable")
    version = Version(
        told["version"], attempt.base, attempt.number, tuple(told["done"]), told["model"]["sha256"], entry.time
    )
    version = replace(version, files=told.get("files", {}))
    state = replace(state, versions={**state.versions, version.number: version}, current=version.number)
    # What is left over goes on in the next run: the mean over all is below the thresholds, its own is not. What the
    # base has forgotten is done too, whatever it was before.
    names = dict.fromkeys((*attempt.requests, *state.covers(version.number)))
    return _settled(state, tuple(names), entry.time, "waiting")


def _settled(state: LedgerState, names: Sequence[str], time: str, otherwise: State) -> LedgerState:
    """These requests are done where the version in force covers them, else as said."""
    covered, requests = set(state.covers(state.current)), dict(state.requests)
    for name in names:
        known = requests[name]
        found: State = "done" if name in covered else otherwise
        by = next((each.number for each in state.lineage(state.current) if name in each.requests), None)
        since = known.since if known.version == by and by is not None else time
        requests[name] = replace(known, state=found, since=since, version=by)
    return replace(state, requests=requests)


def _abandoned(state: LedgerState, entry: Entry) -> LedgerState:
    attempt = replace(state.attempts[entry.told["attempt"]], abandoned=True)
    state = replace(state, attempts={**state.attempts, attempt.number: attempt})
    return _settled(state, attempt.requests, entry.time, "waiting")


def _undone(state: LedgerState, entry: Entry) -> LedgerState:
    told = entry.told
    requests = _with(state, [told["request"]], state="undone", since=entry.time, version=None)
    state = replace(state, requests=requests, current=told["back_to"])
    return replace(state, requests=_with(state, told["waiting"], state="waiting", since=entry.time, version=None))


def _purge_started(state: LedgerState, entry: Entry) -> LedgerState:
    return _purge(state, entry, purging=True, purged=False)


def _purged(state: LedgerState, entry: Entry) -> LedgerState:
    state = _purge(state, entry, purging=False, purged=True)
    return _not_reached(state, entry)


def _not_reached(state: LedgerState, entry: Entry) -> LedgerState:
    return replace(state, unreached=unreached_of(entry.told, state.unreached))


def _purge(state: LedgerState, entry: Entry, *, purging: bool, purged: bool) -> LedgerState:
    versions = dict(state.versions)
    for number in entry.told.get("versions", ()):  # ledgers from before have none
        versions[number] = replace(versions[number], purging=purging, purged=purged)
    requests = _with(state, entry.told["requests"], purging=purging, purged=purged)
    return replace(state, requests=requests, versions=versions)


def _registered(state: LedgerState, entry: Entry) -> LedgerState:
    number = entry.told["version"]
    known = replace(state.versions[number], registry=entry.told["registry"])
    return replace(state, versions={**state.versions, number: known})


_THEN = {
    "added": _added,
    "run started": _started,
    "tracked": _tracked,
    "run failed": _failed,
    "evidence": lambda state, entry: state,
    "run ended": _ended,
    "run abandoned": _abandoned,
    "undone": _undone,
    "purge started": _purge_started,
    "purged": _purged,
    "not reached": _not_reached,
    "registered": _registered,
}
