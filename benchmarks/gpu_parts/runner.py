"""Runs the steps of the chosen parts one after the other, and writes what is known after each."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from table import machine

from gpu_parts import tofu
from gpu_parts.main_job import ALONE, OFFLOADED, STAGES
from gpu_parts.setting import Setting, run_python
from gpu_parts.summary import summary

LETTERS = ("a", "b", "c", "d", "e", "f", "offload", "commands", "resume")
SCRIPT = Path(__file__).parents[1] / "gpu.py"


@dataclass(frozen=True)
class Step:
    """expected: seconds on an H100. Measured, or reckoned from what was: alone, stages, largest, quarter, tofu,
    evaluations, offload, evaluate and resume.

    tiny: whether the tiny setting has it. needs: steps that must have ended well.
    computes: with torch, so that it needs a process of its own; the others only start commands.
    missing: what it needs that is not here, None: nothing.
    """

    name: str
    parts: tuple[str, ...]
    run: Callable[[Setting], None]
    expected: float
    tiny: bool = True
    needs: tuple[str, ...] = ("teach",)
    computes: bool = False
    missing: Callable[[Setting], str | None] = lambda setting: None


def _part(module: str, function: str, *arguments: Any) -> Callable[[Setting], None]:
    def run(setting: Setting) -> None:
        getattr(importlib.import_module(f"gpu_parts.{module}"), function)(setting, *arguments)

    return run


def _no_mirror(setting: Setting) -> str | None:
    return None if setting.mirror else "no --mirror, a folder with the rows of lm-eval's tasks"


# By value: what is asked first of a new card comes first. The first four and `refused` fill 360 s.
STEPS = (
    Step(
        "teach",
        tuple(letter for letter in LETTERS if letter not in "df"),
        _part("teach", "teach"),
        65,
        needs=(),
        computes=True,
    ),
    Step("alone", ("a", "b"), _part("main_job", "sweep", "alone", ALONE, 1), 170),
    Step("stages", ("a",), _part("main_job", "sweep", "stages", STAGES, 0.25), 90, False),
    Step("memory", ("d",), _part("step_memory", "measure"), 25, needs=(), computes=True),
    Step("largest", ("d",), _part("largest", "measure"), 45, needs=(), computes=True),
    Step("probes", ("c",), _part("probes", "compare"), 80, computes=True),
    Step("refused", ("a",), _part("main_job", "refused"), 4),
    Step("quarter", ("e",), _part("main_job", "sweep", "quarter", ALONE, 0.25), 90, False),
    Step("evaluations", ("e",), _part("evaluations", "measure"), 80, computes=True, missing=_no_mirror),
    Step("tofu", ("f",), _part("tofu", "measure"), 340, needs=(), missing=tofu.missing),
    Step("offload", ("offload",), _part("main_job", "sweep", "offload", OFFLOADED, 0.25), 170, False),
    Step("probe-command", ("commands",), _part("commands", "probe_command"), 16),
    Step("doctor", ("commands",), _part("commands", "doctor"), 15, needs=()),
    Step("evaluate", ("commands",), _part("commands", "evaluate"), 25, False),
    Step("resume", ("resume",), _part("main_job", "resume"), 140, False),
)


def run_one(name: str, setting: Setting) -> None:
    """One step, in this process."""
    step = next(step for step in STEPS if step.name == name)
    if setting.tiny and name == "alone":
        # One trial tells all that the tiny setting can tell.
        step = Step(name, step.parts, _part("main_job", "sweep", "alone", ALONE[:1], 1), step.expected)
    try:
        step.run(setting)
    except Exception:
        found = read_step(setting, name)
        setting.save(name, {**found, "error": "\n".join(traceback.format_exc().strip().splitlines()[-8:])})
        raise


def read_step(setting: Setting, name: str) -> dict[str, Any]:
    """What a step has left."""
    file = Path(setting.out) / "parts" / f"{name}.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def run_steps(setting: Setting, parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """All steps of the parts; the results, which are also in results.json and, as a table, in table.md."""
    shutil.rmtree(Path(setting.out) / "parts", ignore_errors=True)
    results: dict[str, Any] = {
        "machine": {**machine(), "python_cores": len(os.sched_getaffinity(0))},
        "device": setting.device,
        "tiny": setting.tiny,
        "parts": list(parts),
        "steps": {},
    }
    _write(setting, results)
    for step in STEPS:
        if not set(step.parts) & set(parts):
            continue
        found = _skipped(setting, step, results)
        if found is None:
            say(f"{step.name}: starts ({setting.left:.0f} s are left)")
            found = _run(setting, step)
        results["steps"][step.name] = found
        _write(setting, results)
        last = str(found.get("error") or found.get("why") or "").strip().splitlines()
        say(f"{step.name}: {found['state']} after {found['step_seconds']:.1f} s{': ' + last[-1] if last else ''}")
    return results


def _skipped(setting: Setting, step: Step, results: dict[str, Any]) -> dict[str, Any] | None:
    """Why a step is not run, None where it is."""
    steps = results["steps"]
    missing = [name for name in step.needs if steps.get(name, {}).get("state") != "done"]
    why = None
    if setting.tiny and not step.tiny:
        why = "not in the tiny setting"
    elif (absent := step.missing(setting)) is not None:
        why = absent
    elif missing:
        why = f"needs {', '.join(missing)}, which did not end well"
    elif setting.device == "cuda" and setting.left < step.expected:
        why = f"about {step.expected:.0f} s are needed, {max(setting.left, 0):.0f} s of the budget were left"
    return None if why is None else {"state": "skipped", "why": why, "step_seconds": 0.0}


def _run(setting: Setting, step: Step) -> dict[str, Any]:
    started = time.perf_counter()
    if setting.device == "cuda":
        # One that hangs is not to take all the others' time.
        setting = replace(setting, ends=min(setting.ends, time.time() + 2 * step.expected + 20))
    state = ""
    if step.computes:
        ran = run_python(setting, [str(SCRIPT), "--step", step.name, setting.text()], step.name, setting.left)
        found = read_step(setting, step.name)
        state = "cut off" if ran.code is None else ""
        if ran.code and "error" not in found:
            found["error"] = f"{ran.last}\n{ran.how}"
    else:
        with contextlib.suppress(Exception):  # it is in what the step has left
            run_one(step.name, setting)
        found = read_step(setting, step.name)
    state = state or ("failed" if "error" in found else "done")
    return {**found, "state": state, "step_seconds": time.perf_counter() - started}


def _write(setting: Setting, results: dict[str, Any]) -> None:
    folder = Path(setting.out)
    half = folder / "results.json.tmp"
    half.write_text(json.dumps(results, indent=1), encoding="utf-8")
    os.replace(half, folder / "results.json")
    (folder / "table.md").write_text(summary(results), encoding="utf-8")
