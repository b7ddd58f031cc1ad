"""benchmarks/requests_over_time.py: two requests, in several ways; its numbers and its figure are there.

Needs: nothing but this machine's processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "requests_over_time.py"


@pytest.mark.slow
def test_requests_are_answered_in_each_way(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_WAIT_POLICY": "passive"}
    ways = "icu,drawn@1e-4:1,original:1,together,retrained"
    command = [sys.executable, str(SCRIPT), "--json", "--requests", "2", "--texts", "4", "--ways", ways]
    command += ["--storage", str(tmp_path), "--figure", str(tmp_path / "figure.svg")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert [row["request"] for row in rows if row["way"] == "icu"] == [1, 2]
    assert {row["way"] for row in rows} == {"before", "icu", "drawn@1e-4", "original", "together", "retrained"}
    before, first = rows[0], next(row for row in rows if row["way"] == "icu")
    original = next(row for row in rows if row["way"] == "original")
    assert before["worst MA"] > 0.9 and before["below"] == 0
    # The first request starts from the original in both ways.
    assert first["MA"] == pytest.approx(original["MA"], abs=1e-6) and first["MA"] < 0.5994
    for row in rows:
        assert len(row["each"]) == row["request"] and row["worst MA"] == max(row["each"])
        assert row["ppl"] == pytest.approx(row["heldout"] / before["heldout"])
    assert (tmp_path / "figure.svg").read_text().count("ICU") >= 3
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert json.loads(again.stdout)["rows"] == rows  # nothing is measured twice
