"""The main job as a user starts it, `python -m icu_ray.sweep`, and what its own files tell of each trial."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpu_parts.setting import (
    LEARNING_RATE,
    TINY_LEARNING_RATE,
    Setting,
    end_group,
    environment,
    run_python,
    write_sweep,
)

CELLS: Mapping[str, Mapping[str, Any]] = {
    "fp32-z0": {"precision": "fp32"},
    "bf16-z0": {"precision": "bf16"},
    "bf16-z1": {"precision": "bf16", "zero_stage": 1},
    "bf16-z2": {"precision": "bf16", "zero_stage": 2},
    "bf16-z3": {"precision": "bf16", "zero_stage": 3},
    "bf16-z0-offload": {"precision": "bf16", "offload_optimizer": True},
    **{
        f"bf16-z{stage}-offload": {"precision": "bf16", "zero_stage": stage, "offload_optimizer": True}
        for stage in (1, 2, 3)
    },
}
ALONE, STAGES = ("fp32-z0", "bf16-z1"), ("bf16-z0", "bf16-z2", "bf16-z3")
OFFLOADED = ("bf16-z1-offload", "bf16-z2-offload", "bf16-z3-offload")
_MAKESPAN = "makespan.json"
"""In the work folder: how long the sweep of ALONE took, for a later run that compares with it."""


def models(setting: Setting, names: Sequence[str], gpus: float) -> list[dict[str, Any]]:
    """Models of a sweep. The ZeRO stage is no part of a trial's identity, so each cell differs by a hair in lr."""
    rate = TINY_LEARNING_RATE if setting.tiny else LEARNING_RATE
    share = 0 if setting.device == "cpu" else gpus
    return [
        {
            "name": name,
            "source": str(setting.model),
            "gpus_per_worker": share,
            "lr": rate * (1 + 1e-6 * list(CELLS).index(name)),
            **CELLS[name],
        }
        for name in names
    ]


def sweep(setting: Setting, name: str, cells: Sequence[str], gpus: float) -> None:
    """The part: a sweep of these cells, each with a share of the GPU."""
    file = write_sweep(setting, name, models(setting, cells, gpus))
    shutil.rmtree(Path(setting.work) / "runs" / name, ignore_errors=True)
    with _peak_of_card(setting) as peak:
        ran = run_python(setting, ["-m", "icu_ray.sweep", str(file), "-v"], f"sweep-{name}", setting.left - 3)
    found = {
        "command": f"python -m icu_ray.sweep {file.name}",
        "gpus_per_worker": gpus,
        "exit_code": ran.code,
        "command_seconds": ran.seconds,
        "peak_card_gib": peak[0],
        **told(setting, name),
    }
    if ran.code != 0:
        found["error"] = f"{ran.last}\n{ran.how}"
    kept = Path(setting.work) / _MAKESPAN
    if name == "alone":
        kept.write_text(json.dumps(found["makespan"]), encoding="utf-8")
    elif kept.is_file():
        found["one_after_the_other"] = json.loads(kept.read_text(encoding="utf-8"))
    setting.save(name, found)


def refused(setting: Setting) -> None:
    """The part: what the config does not offer, and its words."""
    file = write_sweep(setting, "refused", models(setting, ["bf16-z0-offload"], 1))
    ran = run_python(setting, ["-m", "icu_ray.sweep", str(file), "--dry-run"], "refused", setting.left - 1)
    setting.save("refused", {"cell": "bf16-z0-offload", "exit_code": ran.code, "said": ran.last})


def resume(setting: Setting) -> None:
    """The part: the driver of one trial is killed after its second epoch, and the same command goes on."""
    file = write_sweep(setting, "resume", models(setting, ["bf16-z1"], 1))
    root = Path(setting.work) / "runs" / "resume"
    shutil.rmtree(root, ignore_errors=True)
    command = ["-m", "icu_ray.sweep", str(file), "-v"]
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment(setting.device),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and setting.left > 20 and _epochs_told(root) < 2:
            time.sleep(0.05)
        # Between the record of an epoch and its checkpoint lie seconds: the second epoch may have to be run again.
        killed_after = _epochs_told(root)
    finally:
        if process.poll() is None:
            end_group(process)
    ran = run_python(setting, command, "resume", setting.left - 3)
    found = {"killed_after_epoch": killed_after, "exit_code": ran.code, "command_seconds": ran.seconds}
    found |= told(setting, "resume")
    if ran.code != 0:
        found["error"] = f"{ran.last}\n{ran.how}"
    setting.save("resume", found)


def _epochs_told(root: Path) -> int:
    return max((len(_lines(file)) - 1 for file in root.glob("trials/*/events.jsonl")), default=0)


def told(setting: Setting, name: str) -> dict[str, Any]:
    """What the files of a sweep say: its trials, and the seconds from the first one's start to the last one's end."""
    found = [trial(folder) for folder in sorted((Path(setting.work) / "runs" / name / "trials").glob("*"))]
    ended = [each for each in found if each["ended"] is not None]
    whole = len(ended) == len(found) > 0
    seconds = max(t["ended"] for t in ended) - min(t["started"] for t in found) if whole else None
    return {"trials": {each["cell"]: each for each in found}, "makespan": seconds}


def trial(folder: Path) -> dict[str, Any]:
    """One trial by its files; null where it was cut off."""
    spec, result = _json(folder / "spec.json"), _json(folder / "result.json")
    events = _lines(folder / "events.jsonl")
    before, after = (result.get(side) or {} for side in ("before", "after"))
    if not result and events:
        before, after = events[0]["scores"], events[-1]["scores"]
    seconds = dict(result.get("seconds", {}))
    started, ended = spec.get("started"), result.get("ended")
    wall = ended - started if started is not None and ended is not None else None
    length = _length(spec)
    trained = [2 * length * previous["active"] for previous in events[:-1]]
    steps = [event["seconds"].get("train", 0.0) for event in events[1:]]
    # The first epoch also waits for kernels that are loaded, or chosen, at first use.
    later = sum(steps[1:])
    error = folder / "error.txt"
    return {
        "cell": spec.get("model", folder.name),
        "verdict": result.get("status"),
        "reason": result.get("reason"),
        "epochs": result.get("epochs", max(len(events) - 1, 0)),
        "before": _scores(before),
        "after": _scores(after),
        "started": started,
        "ended": ended,
        "wall": wall,
        "seconds": seconds,
        "uncounted": None if wall is None or "total" not in seconds else wall - seconds["total"],
        "train_tokens_per_second": sum(trained[1:]) / later if later > 0 else None,
        "epochs_seconds": [event["seconds"] for event in events[1:]],
        "active": [event["active"] for event in events],
        "notes": [note for event in events for note in event["notes"]],
        "error": "\n".join(error.read_text(encoding="utf-8").strip().splitlines()[-8:]) if error.is_file() else None,
    }


def _length(spec: Mapping[str, Any]) -> int:
    columns = spec.get("settings", {}).get("columns", {})
    config = (spec.get("provenance") or {}).get("config", {}).get("columns", {})
    return int(columns.get("length") or config.get("length") or 200)


def _scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    extraction = next((value for key, value in scores.items() if key.startswith("el") and key[2:].isdigit()), None)
    return {"ma": scores.get("ma"), "el": extraction, "ppl_heldout": scores.get("ppl_heldout")}


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


@contextmanager
def _peak_of_card(setting: Setting) -> Iterator[list[float | None]]:
    """The largest memory in use on the card, by all processes, looked at twice a second; None where nobody says."""
    peak: list[float | None] = [None]
    over = threading.Event()

    def look() -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not over.wait(0.5):
            try:
                used = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) / 1024
            except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
                return
            peak[0] = max(peak[0] or 0.0, used)

    thread = threading.Thread(target=look, daemon=True)
    if setting.device == "cuda":
        thread.start()
    try:
        yield peak
    finally:
        over.set()
