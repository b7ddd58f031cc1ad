"""A model hub on this machine, as far as the hub's own client asks one: models from folders, over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """url: for HF_ENDPOINT. asked: every request's method and path. bytes_per_second: of files; None: no limit."""

    url: str
    models: Mapping[str, Path]
    bytes_per_second: float | None = None
    asked: list[str] = field(default_factory=list)

    def sha(self, model: str) -> str:
        """The commit of a model: of what its folder holds now."""
        digest = hashlib.sha1()
        for name, file in self.files(model).items():
            digest.update(name.encode() + file.read_bytes())
        return digest.hexdigest()

    def files(self, model: str) -> dict[str, Path]:
        """Its files by name."""
        folder = self.models[model]
        return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}

    @property
    def loaded(self) -> list[str]:
        """The files that were sent."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line]


@contextlib.contextmanager
def hub(models: Mapping[str, Path], bytes_per_second: float | None = None) -> Iterator[Hub]:
    """Serve folders as models 'organisation/name'."""
    hub = Hub("", models, bytes_per_second)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            model, what, name = _parts(path)
            if model not in hub.models:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif what == "tree":
                self._json([_entry(name, file) for name, file in hub.files(model).items()])
            elif what == "revision":
                siblings = [{"rfilename": n, "size": file.stat().st_size} for n, file in hub.files(model).items()]
                self._json({"id": model, "modelId": model, "sha": hub.sha(model), "siblings": siblings})
            elif (file := hub.files(model).get(name)) is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                content = file.read_bytes()
                etag = f'"{hashlib.sha1(content).hexdigest()}"'
                self._send(200, content, {"ETag": etag, "X-Repo-Commit": hub.sha(model), "Accept-Ranges": "bytes"})

        do_HEAD = do_GET

        def _json(self, found: Any) -> None:
            self._send(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

        def _send(self, code: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            step = 64 * 1024
            for start in range(0, len(content), step):
                self.wfile.write(content[start : start + step])
                if hub.bytes_per_second is not None:
                    time.sleep(step / hub.bytes_per_second)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _parts(path: str) -> tuple[str, str, str]:
    """(model, what is asked of it, a file's name) of /OWNER/NAME/resolve/COMMIT/FILE or /api/models/OWNER/NAME/..."""
    owner, name, *rest = [*path.removeprefix("/api/models").strip("/").split("/"), ""][:99]
    what = rest[0] or "revision"
    return f"{owner}/{name}", what, "/".join(part for part in rest[2:] if part)


def _entry(name: str, file: Path) -> dict[str, Any]:
    return {
        "type": "file",
        "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        "size": file.stat().st_size,
        "path": name,
    }
