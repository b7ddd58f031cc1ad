"""Watching the head: tells when the Ray under this process is gone, because its head or this machine's node died.

Ray by itself asks a dead head for a minute and then ends the process without a word; calls that are under way may never
return. So whoever is called here should ask nothing of Ray any more, and end.

    with connected(), watched_head(on_loss): ...    # on_loss(why), from a thread of its own

A head that only answers slowly, and one that keeps its state outside (Redis) and is back in time, are no loss.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)
CHECK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_RECONNECT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own, after which it ends the process (60 s); half of it is ours."""


class _Head:
    """The connected cluster as it was at first."""

    def __init__(self) -> None:
        import ray
        from ray._private.worker import global_worker
        from ray._raylet import NodeID

        context = ray.get_runtime_context()
        self.address = str(context.gcs_address)
        self._gcs, self._node = global_worker.gcs_client, NodeID.from_hex(context.get_node_id())
        self._longest_silence = float(os.environ.get(_RECONNECT_VARIABLE, "60")) / 2
        self._answered = time.monotonic()

    def check(self) -> str | None:
        """Why the cluster is gone; '' while it is there, None while it does not answer and may be back yet."""
        from ray.exceptions import AuthenticationError, RayError

        try:
            (alive,) = self._gcs.check_alive([self._node], timeout=_ANSWER_SECONDS)
        except AuthenticationError:  # it knew us when we came: this one is another cluster
            return f"the head at {self.address} was restarted"
        except RayError:
            if not self._is_listening():
                silent = time.monotonic() - self._answered
                return f"its head at {self.address} does not answer" if silent > self._longest_silence else None
            alive = True  # busy
        self._answered = time.monotonic()
        return "" if alive else "the node that this driver runs on has left the cluster"

    def _is_listening(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def watched_head(on_loss: Callable[[str], None]) -> Iterator[None]:
    """Call `on_loss` with the reason once the connected Ray is gone; also when that shows as an error in the block."""
    head, over, one_at_a_time = _Head(), threading.Event(), threading.Lock()

    def check(ending: bool = False) -> str | None:
        with one_at_a_time:
            try:
                why = head.check()
            except Exception:  # an answer that could not be read says nothing of the cluster
                log.exception("looking after Ray")
                return ""
            # A block that has ended is about to take its node away itself.
            if why and (ending or not over.is_set()):
                on_loss(why)
            return why

    def watch() -> None:
        while not over.wait(CHECK_SECONDS):
            if check():
                return

    threading.Thread(target=watch, name="head-watch", daemon=True).start()
    try:
        yield
    except Exception:
        over.set()
        while check(ending=True) is None:
            time.sleep(CHECK_SECONDS)
        raise
    finally:
        over.set()
