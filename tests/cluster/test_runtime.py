"""A Ray that is started here is this user's alone: its folder, and the addresses where its processes listen.

Needs: a Ray of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.faults_case import ROOT

CODE = """
import json, os, stat
import psutil
from icu_ray.cluster.runtime import connected
with connected(cpus=1) as cluster:
    import ray
    @ray.remote
    def parent():
        return os.getppid()
    raylet = ray.get(parent.remote())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert raylet in [each.pid for each in processes]
    sockets = [each for process in processes for each in process.net_connections("tcp") if each.status == "LISTEN"]
    way = [cluster.temp, *cluster.temp.parents]
    modes = [stat.S_IMODE(each.stat().st_mode) for each in way if each.is_dir() and each.stat().st_uid == os.getuid()]
    said = {"addresses": [each.laddr.ip for each in sockets], "closed": [mode & 0o077 == 0 for mode in modes]}
    said["nodes"] = [[node["NodeManagerAddress"], node["Alive"]] for node in ray.nodes()]
    print(json.dumps(said))
"""


def test_a_ray_of_our_own_is_closed_to_others_and_needs_no_short_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / ("t" * max(1, 99 - len(str(tmp_path))))
    long.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(long)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(str(long)) >= 100
    said = json.loads(done.stdout.splitlines()[-1])
    assert len(said["addresses"]) > 3 and {each.removeprefix("::ffff:") for each in said["addresses"]} == {"127.0.0.1"}
    assert any(said["closed"])  # a folder on the way that only its owner may enter
    assert said["nodes"] == [["127.0.0.1", True]]
