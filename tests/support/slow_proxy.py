"""A TCP proxy in front of a server on this machine that keeps every answer back for a while."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class SlowProxy:
    """delay: seconds for which what the server says is kept back. only: the requests whose answers are (a part of their
    first line); both may be changed at any time. A context manager."""

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.port, self.delay, self.only = port, delay, b""
        self._asked: dict[socket.socket, bytes] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SlowProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.port))
                for source, sink, slow in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, slow), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):  # one side has gone
            while data := source.recv(2**16):
                if not slow and b" HTTP/1.1\r\n" in data:
                    self._asked[sink] = data.split(b"\r\n")[0]
                elif slow and self.only in self._asked.get(source, b""):
                    time.sleep(self.delay)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
