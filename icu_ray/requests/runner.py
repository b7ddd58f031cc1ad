"""One runner a ledger: who runs, undoes or purges holds it, and says in its folder who he is.

    with holding(folder) as lease: ...          # UserError where another process has it

The lease is a sweep's (sweep/lease.py): a file with host and process, renewed while its holder lives, so a killed
runner blocks nobody. `add`, `list` and `show` need none.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from icu_ray.errors import UserError
from icu_ray.requests.ledger import require_ledger
from icu_ray.storage.results import BEAT_SECONDS, SILENT_SECONDS
from icu_ray.sweep.lease import Held, Lease, take


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[Lease]:
    """The ledger for this process alone, as far as running goes; UserError that names the one who has it."""
    require_ledger(folder)
    place = folder.resolve()
    try:
        lease = take(str(place.parent), place.name)
    except Held as held:
        raise UserError(
            f"{folder}: another runner has the ledger ({held}); wait until it has ended. A runner on another machine "
            f"that has not been heard of for {SILENT_SECONDS:.0f} s is considered dead"
        ) from held
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(BEAT_SECONDS):
            try:
                lease.renew()
            except Held:  # another one has taken over: this process stood still for too long
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except OSError:
                continue

    thread = threading.Thread(target=renew, name="ledger-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join(timeout=5)
        lease.release()


def still_mine(lease: Lease, folder: Path) -> None:
    """UserError where another runner has taken the ledger over meanwhile."""
    try:
        lease.renew()
    except Held as held:
        raise UserError(f"{folder}: another runner ({held}) has taken the ledger over; this one stops") from held
