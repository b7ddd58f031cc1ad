"""benchmarks/method_steps.py: every method that trains takes real steps there, and what it needs is said.

Needs: nothing but this machine's processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icu_ray.methods import BUILT_IN, method_class

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "method_steps.py"


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """By method."""
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(SCRIPT), "--quick", "--json"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)["rows"]
    return {row["method"]: row for row in found}


def test_every_method_that_trains_is_measured(rows: dict[str, dict[str, Any]]) -> None:
    trained = {name for name in BUILT_IN if method_class(name).trains}
    assert set(rows) == trained | {"npo, sam", "graddiff, gru"}
    for name, row in rows.items():
        assert row["case"] == f"{name}, 2 x 64, 512 words"
        assert row["ratio"] == row["ours"] / row["other"] > 0 and row["other"] == rows["kumpr"]["ours"]


def test_more_rows_and_more_gradients_cost_more(rows: dict[str, dict[str, Any]]) -> None:
    counted = {name: row["rows"] for name, row in rows.items()}
    assert (counted["kumpr"], counted["task_vector"], counted["graddiff"], counted["altpo"]) == (8, 8, 16, 24)
    assert (counted["npo"], counted["npo, sam"], counted["graddiff, gru"]) == (16, 24, 16)
    assert rows["graddiff"]["ratio"] > 1.1
    assert rows["altpo"]["ratio"] > rows["idknll"]["ratio"]  # which does not read the targets
    assert rows["npo, sam"]["ratio"] > rows["npo"]["ratio"]


def test_what_each_needs_is_said(rows: dict[str, dict[str, Any]]) -> None:
    needs = {name: set(filter(None, row["needs"].split(", "))) for name, row in rows.items()}
    assert needs["kumpr"] == needs["ceu"] == set()
    assert needs["graddiff"] == needs["simnpo"] == {"pairs"}
    assert needs["icu"] == {"pairs", "original's predictions on pairs"}
    assert needs["npo"] == needs["dpo"] == {"pairs", "original's token losses"}
    assert needs["undial"] == {"original's predictions on targets"}
    assert needs["altpo"] == {"pairs", "second answers", "original's token losses"}
    assert needs["idknll"] == {"pairs", "second answers"}
    assert needs["rmu"] == {"pairs", "original's hidden states"}
    assert needs["pdu"] == {"pairs", "a number carried on"}
    assert needs["task_vector"] == {"the weights it began with"}
    assert needs["npo, sam"] == needs["npo"] | {"three gradients"}
    assert needs["graddiff, gru"] == {"pairs", "two gradients"}
