"""The tracker of a running sweep: a thread that calls `sync_sweep` every few seconds; and which MLflow is meant.

When the server is away the sweep goes on, and `icu-ray sync` (or the next sweep) sends the rest.

    tracker = Tracker("runs", "quickstart", tracking_uri("runs")); tracker.start()
    tracker.finish()                                                # True once everything is sent
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import threading
from pathlib import Path

from icu_ray.errors import UserError, without_secrets
from icu_ray.report.tracking.sync import SyncState, sync_sweep
from icu_ray.report.tracking.views import trials_page
from icu_ray.storage.files import local_path

_log = logging.getLogger(__name__)
RETRY_SECONDS = 30.0
FINISH_SECONDS = 60.0
"""What is not sent so long after the last trial is left to `icu-ray sync`."""

INTERRUPTED_SECONDS = 10.0
"""The same, where the user has interrupted and waits."""


def tracking_uri(storage: str, configured: str | None = None) -> str:
    """MLFLOW_TRACKING_URI, else the configured address, else an SQLite file beside the results."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or configured
    if given:
        return given
    folder = local_path(storage)
    return f"sqlite:///{(folder if folder is not None else Path()).resolve() / 'mlflow.db'}"


def ui_command(uri: str, experiment: str | None = None) -> str:
    """What a user types and opens to see the runs, those of an experiment (its id) once it is known."""
    page = "" if experiment is None else trials_page(experiment)
    if uri.startswith("sqlite:"):
        then = f"\n  then open http://127.0.0.1:5000/{page}" if page else ""
        return f"{shlex.quote(_mlflow())} ui --backend-store-uri {shlex.quote(uri)} --port 5000{then}"
    return f"open {without_secrets(uri).rstrip('/')}/{page}"


def _mlflow() -> str:
    """How the `mlflow` of this Python's environment is called from here."""
    mine = Path(sys.executable).with_name("mlflow")
    if not mine.is_file() or shutil.which("mlflow") == str(mine):
        return "mlflow"
    return str(mine.relative_to(Path.cwd())) if mine.is_relative_to(Path.cwd()) else str(mine)


class Tracker:
    """Keeps MLflow up to date while a sweep runs, from a thread of its own; never stops the sweep."""

    def __init__(self, storage: str, sweep: str, uri: str, *, every_seconds: float = 5.0) -> None:
        self.storage, self.sweep, self.uri = storage, sweep, uri
        self.every_seconds = every_seconds
        self.trouble: str | None = None
        self._state = SyncState()
        self._over, self._abandoned = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-sync", daemon=True)

    def start(self) -> None:
        """Begin; the first contact creates the database where there is none."""
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            self._over.wait(self.every_seconds if self._sync_once(over=False) else RETRY_SECONDS)
        if not self._abandoned.is_set():
            self._sync_once(over=True)

    def _sync_once(self, over: bool) -> bool:
        try:
            sync_sweep(self.storage, self.sweep, self.uri, state=self._state, over=over)
        except Exception as error:  # whatever the server or network does, the sweep goes on
            text = str(error) if isinstance(error, UserError) else without_secrets(f"{type(error).__name__}: {error}")
            if self.trouble is None:
                _log.warning("MLflow at %s cannot be reached (%s); what is missing is sent later", self.uri_shown, text)
            self.trouble = text
            return False
        self.trouble = None
        return True

    @property
    def ui_command(self) -> str:
        """What a user types and opens to see the runs."""
        return ui_command(self.uri, self._state.experiment)

    @property
    def uri_shown(self) -> str:
        """The server's address without user and password."""
        return without_secrets(self.uri)

    def abandon(self) -> None:
        """Send nothing more: the sweep is another driver's."""
        self._abandoned.set()
        self._over.set()

    def finish(self, seconds: float = FINISH_SECONDS) -> bool:
        """Have the rest sent; False where that was not done within `seconds`, or the server could not be reached."""
        self._over.set()
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(timeout=seconds)
        if self._thread.is_alive():  # it ends with this process, wherever it stands
            self.trouble = self.trouble or f"it had not taken everything within {seconds:.0f} s"
            return False
        return self.trouble is None
