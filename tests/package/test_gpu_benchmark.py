"""benchmarks/gpu.py: the tiny setting runs on a CPU and leaves every number that it can have there.

Needs: a Ray of its own for one of its tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1600)


@pytest.mark.slow
def test_the_tiny_setting_runs_on_a_cpu(tmp_path: Path) -> None:
    ran = run(tmp_path, "--parts", "a,b,c,d", "--budget", "1500")
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    states = {name: step["state"] for name, step in results["steps"].items()}
    well = dict.fromkeys(("teach", "alone", "probes", "memory", "refused"), "done")
    assert states == {**well, "shared": "skipped", "offload": "skipped"}
    trial = results["steps"]["alone"]["trials"]["fp32-z0"]
    assert trial["verdict"] in ("finished", "not_forgotten")
    assert {"start", "load", "engine", "train", "validate", "checkpoint", "save"} <= set(trial["seconds"])
    assert trial["wall"] >= trial["seconds"]["total"]
    assert "zero_stage" in results["steps"]["refused"]["said"]
    for state in ("recites", "errs"):
        probed = results["steps"]["probes"][f"fp32, {state}"]
        assert probed["rows_with_another_ma"] == probed["rows_with_another_el"] == 0
    assert results["steps"]["memory"]["gradients_differ_by"] < 1e-4
    table = (tmp_path / "table.md").read_text()
    assert "alone, fp32-z0" in table
    assert "shared: skipped after 0 s: not in the tiny setting" in table


def test_what_fails_or_has_no_time_is_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    ran = run(tmp_path, "--parts", "d", "--budget", "1")
    assert ran.returncode == 1
    memory = json.loads((tmp_path / "results.json").read_text())["steps"]["memory"]
    assert memory["state"] == "cut off"
    assert "memory: cut off" in (tmp_path / "table.md").read_text()
