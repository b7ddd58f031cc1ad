"""benchmarks/stacked_adapters.py: stacked cells have the gradients that they have alone, and its numbers are there.

Needs: nothing but this machine's processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stacked_adapters.py"


def test_stacked_cells_have_the_gradients_that_they_have_alone() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(SCRIPT), "--quick", "--json"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    sizes = {(count, length) for length in (64, 200) for count in (1, 8)}
    assert {row["case"] for row in rows} == {f"2 x 64, 512 words, {count} x {length}" for count, length in sizes}
    for row in rows:
        assert row["ratio"] == row["ours"] / row["other"] > 0
        assert row["gradients"] < 1e-5
        assert row["limit"] < 1
