"""A place that a purge could not reach, as the ledger keeps it until it is reached.

found = unreached_of(entry.told, before)    # of an entry 'purged' or 'not reached'
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unreached:
    """One place. said: which, and why. requests: whose texts may lie there.

    path: of a file or folder: in the ledger's folder, or from the root where it is not the ledger's to delete. mlflow,
    sweep: an address without credentials, and the sweep whose runs lie there. None of them: nobody can try it again.
    """

    said: str
    requests: tuple[str, ...]
    path: str | None = None
    mlflow: str | None = None
    sweep: str | None = None


def unreached_of(told: Mapping[str, Any], before: tuple[Unreached, ...]) -> tuple[Unreached, ...]:
    """All places that are left after an entry. before: those until then."""
    if "not_reached" in told:
        return tuple(Unreached(**{**each, "requests": tuple(each["requests"])}) for each in told["not_reached"])
    # Ledgers from before only have sentences. One of them was of a tag in MLflow's model registry, where no text lies.
    places = [said for said in told.get("unreached", ()) if ": registry entries " not in said]
    return (*before, *(Unreached(said, tuple(told["requests"])) for said in places))


def what_to_do(place: Unreached) -> str:
    """What ends it."""
    if place.mlflow is not None or (place.path is not None and not os.path.isabs(place.path)):
        return "'purge' tries it again"
    return "delete it, then call 'purge'" if place.path is not None else "delete it, then 'purge --deleted-by-hand'"
