"""What a run of benchmarks/gpu.py is given: where, how large, until when; and the sweep's config that follows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from plain_step import NEO_125M, Shape
from tiny_sweep import TINY

ROOT = Path(__file__).parents[2]
TINY_SHAPE = Shape("2 x 32, 500 words", 32, 2, 2, 500, 48)
LEARNING_RATE, TINY_LEARNING_RATE = 3e-5, 1e-3
POOL_ROWS, MOST_ENCODERS = 500, 12
"""Texts in which pairs are sought, and actors of one core that embed them: 2,000 by 4 took 47 s."""


@dataclass(frozen=True)
class Setting:
    """device: 'cuda' or 'cpu'. out: gets results alone. work: models, checkpoints. data, tokenizer: '' for made-up
    records. mirror: of evaluation tasks; tofu: files of TOFU; '' where there is none. ends: Unix seconds."""

    device: str
    tiny: bool
    out: str
    work: str
    data: str
    tokenizer: str
    mirror: str
    tofu: str
    ends: float

    @property
    def shape(self) -> Shape:
        """Of the model that is taught."""
        return TINY_SHAPE if self.tiny else NEO_125M

    @property
    def model(self) -> Path:
        """Folder of the model that recites its forget sample."""
        return Path(self.work) / ("tiny" if self.tiny else "neo-125m")

    @property
    def forget(self) -> Path:
        """Its forget sample as token ids."""
        return Path(self.work) / f"{self.model.name}-forget.npy"

    @property
    def suffix_start(self) -> int:
        """First token of the suffix."""
        return 32 if self.tiny else 150

    @property
    def encoders(self) -> int:
        """Actors that embed texts, each on one core."""
        if self.device == "cpu":
            return 1
        return max(1, min(MOST_ENCODERS, len(os.sched_getaffinity(0)) - 4))

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.time()

    def save(self, part: str, found: Mapping[str, Any]) -> None:
        """What a part has found so far."""
        file = Path(self.out) / "parts" / f"{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(".tmp")
        half.write_text(json.dumps(found, indent=1, default=str), encoding="utf-8")
        os.replace(half, file)

    def text(self) -> str:
        """For `Setting.of`."""
        return json.dumps(asdict(self))

    @staticmethod
    def of(text: str) -> Setting:
        """What `text` made."""
        return Setting(**json.loads(text))


def sweep_tree(setting: Setting, name: str, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The config of a sweep of ICU on the model that was taught."""
    tree: dict[str, Any] = {
        "name": name,
        "storage": str(Path(setting.work) / "runs"),
        "data": {"source": "synthetic", "records": 2400, "sample_size": 128, "heldout": 64},
        "samples": [0],
        "methods": [{"name": "icu", "alpha": 0.5, "beta": 1.0}],
        "optim": {"lr": LEARNING_RATE},
        "stop": {"max_epochs": 8},
        "pairs": {"encoder": "bundled", "actors": setting.encoders},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        "tracking": {"enabled": False},
        "resources": {"retries": 0},
        "models": [dict(model) for model in models],
    }
    if setting.tiny:
        tree |= {key: TINY[key] for key in ("data", "columns", "el")}
        tree |= {"stop": {"max_epochs": 3}, "optim": {"lr": TINY_LEARNING_RATE}}
    elif setting.data:
        tree["data"] = {
            "source": "extraction",
            "folder": setting.data,
            "tokenizer": setting.tokenizer,
            "pool_rows": POOL_ROWS,
            "heldout": 64,
        }
    return tree


def write_sweep(setting: Setting, name: str, models: Sequence[Mapping[str, Any]]) -> Path:
    """The config of a sweep of ICU as a file."""
    return write_config(setting, sweep_tree(setting, name, models))


def write_config(setting: Setting, tree: Mapping[str, Any]) -> Path:
    """A sweep's config as a file, by its name."""
    file = Path(setting.work) / f"{tree['name']}.yaml"
    file.write_text(yaml.safe_dump(dict(tree)), encoding="utf-8")
    return file


def environment(device: str) -> dict[str, str]:
    """Of the processes that are started: this checkout is used, and nothing is looked for on the network."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", **hidden}


@dataclass(frozen=True)
class Ran:
    """A process that has ended. code: None where it was cut off."""

    code: int | None
    seconds: float
    text: str

    @property
    def last(self) -> str:
        """The last lines of what it said."""
        return "\n".join(self.text.strip().splitlines()[-12:])[-1500:]

    @property
    def how(self) -> str:
        """How it ended."""
        return f"cut off after {self.seconds:.0f} s" if self.code is None else f"exit code {self.code}"


def run_python(setting: Setting, arguments: Sequence[str], log: str, limit: float) -> Ran:
    """Run this Python in a process of its own, for at most `limit` seconds; all it says goes to a file in `out`."""
    file = Path(setting.out) / "logs" / f"{log}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    code: int | None = None
    with file.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(setting.device),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=max(limit, 1.0))
        except subprocess.TimeoutExpired:
            end_group(process)
    return Ran(code, time.perf_counter() - started, file.read_text(encoding="utf-8", errors="replace"))


def end_group(process: subprocess.Popen[Any], kind: int = signal.SIGKILL) -> None:
    """End a process that leads its own group, and the group."""
    os.killpg(process.pid, kind)
    process.wait()
