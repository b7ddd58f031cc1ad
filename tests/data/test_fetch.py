"""`icu-ray data fetch` against a real local server that cuts connections, forgets Range, or sends other bytes.

Needs: ../shared for some of its tests.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from icu_ray.data.fetch import FILES, PublicFile, fetch_data
from icu_ray.data.vocabulary import decode_rows, load_vocabulary
from icu_ray.errors import UserError

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8))


@dataclass
class Behaviour:
    """What the server does, and the Range headers it saw."""

    content: bytes = CONTENT
    cut_after: int | None = None
    ranges: bool = True
    errors: int = 0
    status: int = 503
    seen: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            behaviour.seen.append(asked)
            if len(behaviour.seen) <= behaviour.errors:
                self.send_error(behaviour.status)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and behaviour.ranges else 0
            body = behaviour.content[start:]
            self.send_response(206 if asked and behaviour.ranges else 200)
            if asked and behaviour.ranges:
                end, whole = len(behaviour.content) - 1, len(behaviour.content)
                self.send_header("Content-Range", f"bytes {start}-{end}/{whole}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: behaviour.cut_after])  # then the connection is closed

        def log_message(self, format: str, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", behaviour
    running.shutdown()
    running.server_close()
    thread.join()


def _file(content: bytes = CONTENT, place: str = "lm_extraction/x.bin") -> PublicFile:
    return PublicFile(place, "owner/name", "c0ffee", "a/x.bin", len(content), hashlib.sha256(content).hexdigest())


def _fetch(folder: Path, url: str, *files: PublicFile) -> list[str]:
    lines: list[str] = []
    fetch_data(folder, lines.append, files=files or (_file(),), server=url, pause_s=0.001)
    return lines


def test_a_file_is_fetched_once(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    assert _fetch(tmp_path, url) == [f"{tmp_path}/lm_extraction/x.bin: 300,000 bytes from github.com/owner/name"]
    assert (tmp_path / "lm_extraction/x.bin").read_bytes() == CONTENT
    assert _fetch(tmp_path, url) == [f"{tmp_path}/lm_extraction/x.bin: there already"]
    assert behaviour.seen == [None]
    assert [path.name for path in (tmp_path / "lm_extraction").iterdir()] == ["x.bin"]


def test_cut_connections_go_on_where_they_stopped(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.cut_after = 70_000
    _fetch(tmp_path, url)
    assert (tmp_path / "lm_extraction/x.bin").read_bytes() == CONTENT
    assert behaviour.seen == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]


def test_a_killed_download_is_continued(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    (tmp_path / "lm_extraction").mkdir()
    (tmp_path / "lm_extraction/x.bin.part").write_bytes(CONTENT[:123_456])
    _fetch(tmp_path, url)
    assert (tmp_path / "lm_extraction/x.bin").read_bytes() == CONTENT
    assert behaviour.seen == ["bytes=123456-"]


@pytest.mark.parametrize("leftover", [b"x" * 1000, b"x" * 300_000, b"x" * 400_000])
def test_a_leftover_of_something_else_is_thrown_away(
    tmp_path: Path, server: tuple[str, Behaviour], leftover: bytes
) -> None:
    url, _ = server
    (tmp_path / "lm_extraction").mkdir()
    (tmp_path / "lm_extraction/x.bin.part").write_bytes(leftover)
    _fetch(tmp_path, url)
    assert (tmp_path / "lm_extraction/x.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_anew(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.ranges = False
    (tmp_path / "lm_extraction").mkdir()
    (tmp_path / "lm_extraction/x.bin.part").write_bytes(CONTENT[:123_456])
    _fetch(tmp_path, url)
    assert (tmp_path / "lm_extraction/x.bin").read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.errors = 3
    _fetch(tmp_path, url)
    assert len(behaviour.seen) == 4


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"\0", CONTENT + b"more"])
def test_other_bytes_than_published_are_refused(tmp_path: Path, server: tuple[str, Behaviour], content: bytes) -> None:
    url, behaviour = server
    behaviour.content = content
    with pytest.raises(UserError, match="gives other bytes than published"):
        _fetch(tmp_path, url)
    assert list((tmp_path / "lm_extraction").iterdir()) == []


def test_a_file_that_is_gone_is_said_with_where_to_put_it(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, behaviour = server
    behaviour.errors, behaviour.status = 100, 404
    with pytest.raises(UserError, match="404") as refused:
        _fetch(tmp_path, url)
    for part in (
        str(tmp_path / "lm_extraction/x.bin"),
        f"{url}/owner/name/c0ffee/a/x.bin",
        "300000 bytes",
        _file().sha256,
    ):
        assert part in str(refused.value)
    assert len(behaviour.seen) == 1


def test_without_network_all_files_are_listed(tmp_path: Path) -> None:
    files = [_file(place=f"lm_extraction/{name}") for name in "abc"]
    with pytest.raises(UserError, match=r"3 files cannot be downloaded .no connection to 127\.0\.0\.1:9") as refused:
        _fetch(tmp_path, "http://127.0.0.1:9", *files)
    assert str(refused.value).count("SHA-256") == 3


def test_a_user_s_own_file_is_not_overwritten(tmp_path: Path, server: tuple[str, Behaviour]) -> None:
    url, _ = server
    (tmp_path / "lm_extraction").mkdir()
    (tmp_path / "lm_extraction/x.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match="is there, but is not the published file"):
        _fetch(tmp_path, url)
    assert (tmp_path / "lm_extraction/x.bin").read_bytes() == b"mine"


def test_the_published_files_are_those_at_hand(shared: Path, tmp_path: Path) -> None:
    """Size and SHA-256 of every file that is there; and the vocabulary pair reads as the tokenizer does."""
    found = [file for file in FILES if (shared / "data" / file.place).is_file()]
    assert len(found) >= 6
    for file in found:
        target = tmp_path / file.place
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((shared / "data" / file.place).read_bytes())
    lines: list[str] = []
    fetch_data(tmp_path, lines.append, files=found, server="http://127.0.0.1:9")
    assert all(line.endswith("there already") for line in lines)
    rows = np.load(tmp_path / "lm_extraction/train_dataset.npy")[::500].astype(np.int64)
    whole = decode_rows(load_vocabulary(str(shared / "data" / "gpt2_tokenizer")), rows)
    assert decode_rows(load_vocabulary(str(tmp_path / "gpt2_tokenizer")), rows) == whole
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tmp_path / "gpt2_tokenizer")
    assert loaded.eos_token_id == 50256
    assert [loaded.decode(row) for row in rows] == whole
    assert json.loads((tmp_path / "gpt2_tokenizer/tokenizer_config.json").read_text())["model_max_length"] == 1024
