"""Spot notices: a local server that plays the clouds' metadata, and a real Ray of two nodes that is drained.

Needs: a Ray of several nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from icu_ray.cluster.spot_notice import Notice, aws_notice, gcp_notice, wait_for_notice
from tests.support.local_ray import ray_nodes

ROOT = Path(__file__).parents[2]
TOKEN = "imds-token"


@dataclass
class Cloud:
    """What the metadata server says: (status, text) of the notice; slow: seconds it takes; raw: bytes instead."""

    url: str = ""
    notice: tuple[int, str] = (404, "")
    slow: float = 0.0
    raw: bytes | None = None
    asked: list[str] = field(default_factory=list)


class Metadata(BaseHTTPRequestHandler):
    """AWS's paths want the token that PUT gives (IMDSv2), GCP's their own header, as the real servers do."""

    cloud: Cloud
    aws: bool

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def _answer(self) -> None:
        self.cloud.asked.append(f"{self.command} {self.path}")
        time.sleep(self.cloud.slow)
        if self.cloud.raw is not None:
            self.wfile.write(self.cloud.raw)
        elif not self.aws and self.path == "/computeMetadata/v1/instance/preempted" and self.command == "GET":
            allowed = self.headers.get("Metadata-Flavor") == "Google"
            self._say(*(self.cloud.notice if allowed else (403, "Missing Metadata-Flavor:Google header.")))
        elif self.aws and self.path == "/latest/api/token" and self.command == "PUT":
            allowed = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", 0)) > 0
            self._say(*((200, TOKEN) if allowed else (400, "")))
        elif self.aws and self.path == "/latest/meta-data/spot/instance-action" and self.command == "GET":
            allowed = self.headers.get("X-aws-ec2-metadata-token") == TOKEN
            self._say(*(self.cloud.notice if allowed else (401, "")))
        else:
            self._say(404, "")

    do_GET = do_PUT = _answer

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing into the test's output."""


@contextlib.contextmanager
def playing(aws: bool, notice: tuple[int, str] = (404, "")) -> Iterator[Cloud]:
    cloud = Cloud(notice=notice)
    handler = type("Handler", (Metadata,), {"cloud": cloud, "aws": aws})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield cloud
    finally:
        server.shutdown()
        server.server_close()


def in_seconds(seconds: float) -> str:
    """As AWS writes a time."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # would see the token; must not be asked
    with playing(aws=True) as cloud:
        assert aws_notice(cloud.url) is None
        assert cloud.asked == ["PUT /latest/api/token", "GET /latest/meta-data/spot/instance-action"]
        for seconds, shown in ((100, range(97, 101)), (3600, range(120, 121)), (-5, range(1, 2))):
            cloud.notice = (200, json.dumps({"action": "terminate", "time": in_seconds(seconds)}))
            notice = aws_notice(cloud.url)
            assert notice is not None and notice.cloud == "AWS" and notice.seconds in shown
        # Whatever stands there, a notice is a notice: the whole two minutes are taken to be left.
        for text in ("", "{", "[]", "7", '{"action": "stop"}', '{"time": 3}', '{"time": "2026-01-01T00:00:00"}'):
            cloud.notice = (200, text)
            assert aws_notice(cloud.url) == Notice("AWS", 120), text


def test_gcp() -> None:
    with playing(aws=False, notice=(200, "FALSE")) as cloud:
        assert gcp_notice(cloud.url) is None
        cloud.notice = (200, "TRUE\n")
        assert gcp_notice(cloud.url) == Notice("GCP", 30)
        cloud.notice = (200, "<html>")
        assert gcp_notice(cloud.url) is None


def test_no_answer_is_an_oserror() -> None:
    for aws, ask in ((True, aws_notice), (False, gcp_notice)):
        with playing(aws=not aws) as other, pytest.raises(OSError):
            ask(other.url)  # the other cloud's server
        with playing(aws=aws, notice=(503, "busy")) as cloud:
            with pytest.raises(OSError):
                ask(cloud.url)
            cloud.raw = b"SSH-2.0-OpenSSH_9.2\r\n"
            with pytest.raises(OSError):
                ask(cloud.url)
        with pytest.raises(OSError):
            ask(cloud.url)  # nobody listens any more
    with playing(aws=False, notice=(200, "TRUE")) as cloud:
        cloud.slow = 60.0
        began = time.monotonic()
        with pytest.raises(OSError):
            gcp_notice(cloud.url)
        assert time.monotonic() - began < 30


def test_the_watcher_asks_on_through_whatever_happens_until_there_is_a_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with playing(aws=False, notice=(200, "FALSE")) as cloud:
        found: list[Notice] = []
        sources = [lambda: aws_notice(cloud.url), lambda: gcp_notice(cloud.url)]
        thread = threading.Thread(target=lambda: found.append(wait_for_notice(sources, 0.02)), daemon=True)
        thread.start()
        for status, raw in ((200, None), (503, None), (200, b"nonsense\r\n"), (200, None)):
            cloud.notice, cloud.raw = (status, "FALSE"), raw
            seen = len(cloud.asked)
            deadline = time.monotonic() + 120
            while len(cloud.asked) < seen + 10:
                assert thread.is_alive() and time.monotonic() < deadline
                time.sleep(0.01)
        assert not found
        cloud.notice = (200, "TRUE")
        thread.join(timeout=120)
    assert found == [Notice("GCP", 30)]
    assert "no cloud metadata answers here" in caplog.text  # in the middle, when it answered nothing of use


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """A head without room for tasks and two workers; the address."""
    import ray

    with ray_nodes(num_cpus=0) as nodes:
        for _ in range(2):
            nodes.add_node(num_cpus=2)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield str(nodes.address)
        finally:
            ray.shutdown()


def test_a_notice_drains_the_node_and_no_new_work_goes_there(two_nodes: str) -> None:
    import ray
    from ray._private.state import state
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
    def where(seconds: float) -> str:
        time.sleep(seconds)
        return str(ray.get_runtime_context().get_node_id())

    @ray.remote(num_cpus=1)
    class Work:
        """Something that a node is busy with."""

        def __init__(self) -> None:
            self.done = 0

        def more(self) -> int:
            self.done += 1
            return self.done

    workers = {node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU")}
    assert set(ray.get([where.remote(0.5) for _ in range(4)])) == workers
    doomed, safe = sorted(workers)
    # A node that is idle ends as soon as it is drained; this one works.
    on_doomed = NodeAffinitySchedulingStrategy(doomed, soft=False)
    work = Work.options(scheduling_strategy=on_doomed).remote()
    assert ray.get(work.more.remote()) == 1
    assert state.get_draining_nodes() == {}

    with playing(aws=True) as cloud:
        watcher = subprocess.Popen(
            [
                *(sys.executable, "-m", "icu_ray.cluster.spot_notice", "--address", two_nodes, "--node-id", doomed),
                *("--metadata", cloud.url, "--every", "0.2"),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + 120
            while len(cloud.asked) < 6:
                assert watcher.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            assert state.get_draining_nodes() == {}
            gone_at = time.time() + 90
            cloud.notice = (200, json.dumps({"action": "terminate", "time": in_seconds(90)}))
            _, said = watcher.communicate(timeout=300)
        finally:
            watcher.kill()
    assert watcher.returncode == 0, said
    assert "AWS takes this machine in " in said and f"draining node {doomed}" in said
    assert "Traceback" not in said
    deadline = time.monotonic() + 120
    while not (draining := state.get_draining_nodes()):  # the node is told first, the list of all a little later
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert set(draining) == {doomed}
    assert draining[doomed] / 1000 == pytest.approx(gone_at, abs=3)
    # What runs there runs on, and whatever is asked for now goes to the other one.
    assert ray.get(work.more.remote()) == 2
    assert set(ray.get([where.remote(0.1) for _ in range(8)])) == {safe}
