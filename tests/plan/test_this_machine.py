"""What is kept of the machine that plans: the speed of its GPU, and what trials that ended here took.

Needs: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icu_ray.plan import machine_speed
from icu_ray.plan.machine_speed import GPU_REFERENCE_FLOPS, gpu_flops, gpu_flops_of, gpu_name, is_measured
from icu_ray.plan.past_trials import FILE, Work, past_of, remember

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


WORK = Work("gpu", 1e8, 1e-5, True, "fp32", False, 30.0, 12.0, 1e12, 1e12, 1e9, 0.0)
SECONDS = {"start": 4.0, "train": 9.0, "measure": 30.0, "save": 0.6}


def test_a_trial_of_another_precision_or_share_tells_nothing(kept: Path) -> None:
    for other in (replace(WORK, precision="bf16"), replace(WORK, shared=True), replace(WORK, device="cpu")):
        remember(other, 6, SECONDS)
        assert past_of(WORK) is None and past_of(other) is not None
    assert len((kept / FILE).read_text().splitlines()) == 3


IMPOSSIBLE = [
    *(("epochs", number) for number in ("Infinity", "1e999", "NaN", "0", "-3", "null", '"x"', "[]", "1" * 400)),
    *(("lr", number) for number in ("null", '"x"', "0", "1e-300", "1e300")),
    *((name, number) for name in ("train", "measure", "parameters") for number in ("0", "-1", "NaN", "{}")),
    *(("save", number) for number in ("-1", "1e999", "null")),
    *((name, number) for name in ("end", "start") for number in ("-1", "NaN", "Infinity", "null")),
    *(("seconds", found) for found in ("[]", "null", "{}", '{"start": 0, "train": 0, "measure": 0, "save": 0}')),
    *(("work", found) for found in ("[]", "null", "{}", "3", "[" * 100_000)),
    *(("machine", found) for found in ("null", "3")),
]


@pytest.mark.parametrize(("key", "value"), IMPOSSIBLE)
def test_a_line_that_no_trial_can_have_left_is_not_read(kept: Path, key: str, value: str) -> None:
    for _ in range(3):
        remember(WORK, 6, SECONDS)
    file = kept / FILE
    line = json.loads(file.read_text().splitlines()[0])
    mark = "@@"
    if key in line:
        changed = [{**line, key: mark}]
    else:
        changed = [{**line, part: {**line[part], key: mark}} for part in ("work", "seconds") if key in line[part]]
    assert changed
    with file.open("a") as appended:
        appended.writelines(json.dumps(each).replace(f'"{mark}"', value) + "\n" for each in changed)
    past = past_of(WORK)
    assert past is not None and len(past.ended) == 3
    assert past.seconds(WORK) == pytest.approx(4 + 9 + 30 + 0.6) and past.error == 1.5


def test_what_no_trial_can_have_taken_is_not_kept(kept: Path) -> None:
    remember(WORK, 6, {**SECONDS, "start": -0.01})
    (line,) = (kept / FILE).read_text().splitlines()
    assert json.loads(line)["seconds"]["start"] == 0
    for seconds in ({**SECONDS, "train": 0.0}, {**SECONDS, "save": float("nan")}, {**SECONDS, "save": float("inf")}):
        remember(WORK, 6, seconds)
    remember(WORK, 0, SECONDS)
    assert (kept / FILE).read_text() == f"{line}\n"


def test_the_file_of_past_trials_is_cut_to_the_newest(kept: Path) -> None:
    remember(WORK, 1, SECONDS)
    file = kept / FILE
    line = file.read_text()
    file.write_text(line * (2**20 // len(line)))
    for epochs in (7, 8, 9):
        remember(WORK, epochs, SECONDS)
    lines = [json.loads(each)["epochs"] for each in file.read_text().splitlines()]
    assert 1000 <= len(lines) <= 1002 and lines[-3:] == [7, 8, 9] and lines[0] == 1


def test_what_a_trial_took_is_no_reason_for_it_to_fail(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> str:
        raise RuntimeError("no such machine")

    monkeypatch.setattr(machine_speed, "_gpu_model", fails)
    remember(WORK, 6, SECONDS)
    kept.write_text("a file in the place of the folder")
    monkeypatch.setattr(machine_speed, "_gpu_model", lambda: GPU)
    remember(WORK, 6, SECONDS)
