"""Workers of a Ray that is started here are forked, share nothing that could collide, and need no server to start.

Needs: a Ray of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.faults_case import ROOT

CODE = """
import json, os, signal, sys
from icu_ray.cluster.runtime import connected
from icu_ray.training.preloading import PRELOAD

class Worker:
    def look(self):
        import random
        loaded = [name for name in ("torch", "transformers", "deepspeed") if name in sys.modules]
        import numpy, torch
        from ray._raylet import JobID, TaskID
        import ray.train.torch
        drawn = [random.random(), numpy.random.rand(), TaskID.for_fake_task(JobID.from_int(1)).hex()]
        children = torch.ones(300, 300).mm(torch.ones(300, 300)).sum().item()  # on threads that a fork must start anew
        return {"pid": os.getpid(), "parent": os.getppid(), "loaded": loaded, "drawn": drawn, "sum": children,
                "told": os.environ.get("TOLD"), "group": os.getpgid(0)}

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

def main():
    with connected(cpus=2, preload=PRELOAD):
        import ray
        made = ray.remote(num_cpus=0)(Worker)
        workers = [made.options(runtime_env={"env_vars": {"TOLD": str(n)}}).remote() for n in range(3)]
        print(json.dumps([ray.get(worker.look.remote()) for worker in workers]), flush=True)
        if sys.argv[1] == "wait":
            input()
        elif sys.argv[1] == "die":
            try:
                ray.get(workers[0].die.remote())
            except ray.exceptions.RayActorError:
                print(json.dumps([ray.get(worker.look.remote()) for worker in workers[1:]]), flush=True)
        elif sys.argv[1] == "without":
            os.kill(json.loads(input()), signal.SIGKILL)
            print(json.dumps([ray.get(made.remote().look.remote())]), flush=True)

main()
"""


def started(how: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-c", CODE, how], env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def told(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("["):
            return list(json.loads(line))
    raise AssertionError(f"ended with {process.wait()}")


def test_workers_are_forks_that_draw_their_own_numbers_and_die_alone() -> None:
    process = started("die")
    workers, others = told(process), told(process)
    assert process.wait() == 0
    assert len({each["parent"] for each in workers}) == 1
    assert all(each["loaded"] == ["torch", "transformers", "deepspeed"] for each in workers)
    for drawn in zip(*(each["drawn"] for each in workers), strict=True):  # type: ignore[call-overload]
        assert len(set(drawn)) == len(workers)
    assert [each["told"] for each in workers] == ["0", "1", "2"]
    assert all(each["group"] == each["pid"] for each in workers)  # Ray ends a worker with its group
    assert {each["sum"] for each in workers} == {27e6}
    assert [each["pid"] for each in others] == [each["pid"] for each in workers[1:]]


def test_without_a_server_a_worker_starts_as_any_does() -> None:
    process = started("without")
    server = told(process)[0]["parent"]
    assert process.stdin is not None
    process.stdin.write(f"{server}\n")
    process.stdin.flush()
    (later,) = told(process)
    assert process.wait() == 0
    assert later["loaded"] == [] and later["parent"] != server


def test_the_server_and_its_forks_end_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    process = started("wait")
    workers = told(process)
    everyone = [psutil.Process(pid) for pid in (workers[0]["parent"], *(each["pid"] for each in workers))]  # type: ignore[arg-type]
    process.kill()
    process.wait()
    ends = time.monotonic() + 120
    while any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in everyone):
        assert time.monotonic() < ends, everyone
        time.sleep(0.2)


def test_a_server_that_cannot_import_says_so_and_leaves_the_workers_to_ray(tmp_path: Path) -> None:
    from icu_ray.cluster.fork_server import fork_server

    with fork_server(tmp_path, "icu_ray.no_such_module.preload"):
        pass
    assert "No module named 'icu_ray.no_such_module'" in (tmp_path / "fork_server.log").read_text()
