"""A real local HTTP server that answers chat completions, well or in whatever wrong way a test asks for."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    """What came in. time: monotonic seconds; earlier: requests about the same candidate before this one."""

    time: float
    path: str
    authorization: str | None
    body: dict[str, Any]
    number: int
    earlier: int

    @property
    def system(self) -> str:
        return str(self.body["messages"][0]["content"])

    @property
    def candidate(self) -> str:
        """The candidate's text, found by its fence."""
        user = self.body["messages"][1]["content"]
        fenced = re.search(r"\n\nCandidate:\n\[([0-9a-f]{12})\]\n(.*)\n\[\1\]\Z", user, re.DOTALL)
        assert fenced is not None
        return fenced[2]


@dataclass
class Reply:
    """What goes out. cut: only this many bytes of the body are sent before the connection is closed."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    cut: int | None = None


def completion(text: str | None, finish: str = "stop", usage: Any = (100, 20), model: str = "judge-1") -> Reply:
    """A chat completion with this content."""
    counts = None if usage is None else {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Reply(body=json.dumps({"model": model, "choices": [choice], "usage": counts}).encode())


def error(status: int, message: str = "trouble", code: str | None = None, **headers: str) -> Reply:
    """An error as OpenAI writes it; headers by name with _ for -."""
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def score_of(text: str) -> int:
    """What this server's judge thinks of a text: any fixed function of it."""
    return sum(text.encode()) % 11


def good(request: Request) -> Reply:
    """A judge that does as it is told."""
    return completion(f"Some reasons.\nFinal score: {score_of(request.candidate)}")


@dataclass
class Endpoint:
    """The running server: what it saw, what it does, and how many requests it handled at one time."""

    url: str
    respond: Callable[[Request], Reply] = good
    seen: list[Request] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    busy: int = 0
    most_busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve() -> Iterator[Endpoint]:
    """Run the server on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                same = [old for old in endpoint.seen if old.body["messages"][1] == body["messages"][1]]
                request = Request(
                    time.monotonic(), self.path, self.headers.get("Authorization"), body, len(endpoint.seen), len(same)
                )
                endpoint.seen.append(request)
                endpoint.busy += 1
                endpoint.most_busy = max(endpoint.most_busy, endpoint.busy)
            try:
                reply = endpoint.respond(request)
                time.sleep(reply.wait_s)
            finally:
                with endpoint.lock:
                    endpoint.busy -= 1
            try:
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body[: reply.cut])
            except OSError:
                return  # the client gave up waiting
            if reply.cut is not None:
                self.close_connection = True
            elif reply.status == 200:
                with endpoint.lock:
                    endpoint.answered.append(request.candidate)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
