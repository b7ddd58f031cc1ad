"""A hub on this machine, as far as the hub's own client asks one: models and data sets from folders, over HTTP."""

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
    """url: for HF_ENDPOINT. asked: every request's method and path. bytes_per_second: of files; None: no limit.
    gated: names that want a login.

    A model's branch main is what its folder holds now; what it held when it was asked for stays, as a commit.
    """

    url: str
    models: Mapping[str, Path]
    bytes_per_second: float | None = None
    asked: list[str] = field(default_factory=list)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)

    def sha(self, model: str) -> str:
        """The commit that main of a model is at."""
        folder = self.models[model]
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
        content = {name: file.read_bytes() for name, file in files.items()}
        sha = hashlib.sha1(b"".join(name.encode() + data for name, data in content.items())).hexdigest()
        self.commits[sha] = content
        return sha

    @property
    def loaded(self) -> list[str]:
        """The files that were sent."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line]


@contextlib.contextmanager
def hub(models: Mapping[str, Path], bytes_per_second: float | None = None) -> Iterator[Hub]:
    """Serve folders as models or data sets 'organisation/name'."""
    hub = Hub("", models, bytes_per_second)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            model, what, revision, name = _parts(path)
            if model not in hub.models:
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            if model in hub.gated:
                return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
            sha = hub.sha(model) if revision in ("", "main") else revision
            files = hub.commits.get(sha)
            if files is None:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif what == "tree":
                self._json([_entry(name, data) for name, data in files.items()])
            elif what == "revision":
                siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
                self._json({"id": model, "modelId": model, "sha": sha, "siblings": siblings})
            elif name not in files:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
                self._send(200, files[name], {"ETag": etag, "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})
            return None

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


def _parts(path: str) -> tuple[str, str, str, str]:
    """Model, what is asked of it, revision, file: /OWNER/NAME/resolve/REVISION/FILE, /api/models/OWNER/NAME/tree/...

    Of a data set /datasets stands before, or in the place of /models.
    """
    for before in ("/api", "/models", "/datasets"):
        path = path.removeprefix(before)
    owner, name, what, revision, *rest = [*path.strip("/").split("/"), "", "", ""][:99]
    return f"{owner}/{name}", what or "revision", revision, "/".join(part for part in rest if part)


def _entry(name: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}
