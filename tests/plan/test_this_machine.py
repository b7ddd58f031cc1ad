"""What is kept of the machine that plans: the speed of its GPU, and what trials that ended here took.

Needs: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from icu_ray.plan import machine_speed
from icu_ray.plan.machine_speed import GPU_REFERENCE_FLOPS, gpu_flops, gpu_flops_of, gpu_name, is_measured

GPU = "A GPU"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of what is kept, empty; the machine has a GPU of which the driver tells."""
    monkeypatch.setenv("ICU_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(machine_speed, "_gpu_model", lambda: GPU)
    gpu_flops.cache_clear()
    yield tmp_path / "cache"
    gpu_flops.cache_clear()


def measured(monkeypatch: pytest.MonkeyPatch, script: str) -> float:
    monkeypatch.setattr(machine_speed, "_GPU_SCORE", script)
    gpu_flops.cache_clear()
    return gpu_flops()


def test_a_gpu_is_measured_once_and_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_measured("gpu")
    assert measured(monkeypatch, "print(2e13)") == gpu_flops_of(2e13)
    assert is_measured("gpu") and json.loads((kept / machine_speed.FILE).read_text()) == {GPU: 2e13}
    assert measured(monkeypatch, "print(9e13)") == gpu_flops_of(2e13)


def test_what_was_measured_of_a_gpu_at_work_is_not_kept(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, "print(3e10)") == gpu_flops_of(3e10)
    assert not is_measured("gpu")
    kept.mkdir(exist_ok=True)
    (kept / machine_speed.FILE).write_text(json.dumps({GPU: 3e10}))  # by a version that kept it
    assert measured(monkeypatch, "print(4e13)") == gpu_flops_of(4e13)
    assert is_measured("gpu")


def test_a_gpu_that_cannot_be_measured_is_taken_to_be_that_of_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(monkeypatch, "raise SystemExit(1)") == GPU_REFERENCE_FLOPS
    assert not is_measured("gpu")


@pytest.mark.parametrize("listed", ["", "-1", " "])
def test_a_hidden_gpu_is_none(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_name() == GPU
    monkeypatch.setenv(VISIBLE, listed)
    assert gpu_name() is None
    assert measured(monkeypatch, "print(2e13)") == GPU_REFERENCE_FLOPS and not is_measured("gpu")


def test_the_measurement_of_a_gpu_runs_on_a_cpu_too() -> None:
    """With what is CUDA's own left out: the first product is no part of it, and five are, however long they take."""
    script = machine_speed._GPU_SCORE
    for there, here in (('device="cuda"', 'device="cpu"'), ("torch.cuda.synchronize()", "pass"), ("4096", "64")):
        assert there in script
        script = script.replace(there, here)
    script = script.replace("+ 0.4", "- 1") + "print(len(times))\n"
    found: dict[str, object] = {}
    lines: list[object] = []
    exec(script, {"print": lines.append}, found)
    assert lines[1] == 5 and isinstance(lines[0], float) and lines[0] > 0
