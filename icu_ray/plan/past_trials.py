"""What trials that ended on this machine really took: one line each in a small file, which tells later estimates.

    remember(work, epochs=6, seconds={"start": 4.0, "train": 3.1, "measure": 8.0, "save": 0.1})     # a trial's end
    past = past_of(work)                  # trials of about this size on this kind of device; None: none has ended here

The file lies beside machine_speed.json and holds numbers alone. Workers write it on the machine that they run on, so it
says nothing of trials that ran on other nodes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from icu_ray.plan.machine_speed import kept_folder, machine_name

FILE = "past_trials.jsonl"
PARTS: tuple[Literal["train", "measure", "save"], ...] = ("train", "measure", "save")
ENOUGH = 3
"""Trials that tell how far an estimate is off."""
LEAST_ERROR = 1.5
"""No estimate is said to be nearer than this factor."""
_ALIKE, _ALIKE_LR = 8.0, 2.0
"""Small models compute slower than they count, so only models within this factor in size tell of each other; and only
learning rates within this factor tell how many epochs it takes."""
_MOST = 50


@dataclass(frozen=True)
class Work:
    """What a trial is expected to do, as counted from its config.

    start: seconds before and after its epochs. epochs: of them. train, measure: operations of a core or a GPU in an
    epoch. save: bytes that a worker writes in an epoch. end: operations that measure the held-out texts once.
    """

    device: Literal["cpu", "gpu"]
    parameters: float
    lr: float
    paired: bool
    start: float
    epochs: float
    train: float
    measure: float
    save: float
    end: float

    def counted(self, part: Literal["train", "measure", "save"], epochs: float) -> float:
        """Operations or bytes of a part in so many epochs."""
        each = {"train": self.train, "measure": self.measure, "save": self.save}[part]
        return epochs * each + (self.end if part == "measure" else 0.0)


@dataclass(frozen=True)
class Ended:
    """A trial that ended: what it was expected to do, in how many epochs it did it, and the seconds of its parts."""

    work: Work
    epochs: int
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Past:
    """Ended trials, by which others of about their size are told."""

    ended: tuple[Ended, ...]

    def seconds(self, work: Work, most: float = math.inf) -> float:
        """Of a trial. most: epochs that it may take."""
        alike = [
            each for each in self.ended if each.work.paired == work.paired and _near(each.work.lr, work.lr, _ALIKE_LR)
        ]
        factor = statistics.fmean(each.epochs / each.work.epochs for each in alike) if alike else 1.0
        epochs = min(work.epochs * factor, most)
        start = statistics.median(each.seconds["start"] for each in self.ended)
        return start + sum(work.counted(part, epochs) * self._pace(part) for part in PARTS)

    def _pace(self, part: Literal["train", "measure", "save"]) -> float:
        """Seconds for a counted operation or byte; the median, so that one trial beside other work does not tell it."""
        return statistics.median(each.seconds[part] / each.work.counted(part, each.epochs) for each in self.ended)

    @functools.cached_property
    def error(self) -> float | None:
        """The factor within which four of five of them would have been told by the others; None: too few to say."""
        if len(self.ended) < ENOUGH:
            return None
        off = []
        for number, each in enumerate(self.ended):
            others = Past(self.ended[:number] + self.ended[number + 1 :])
            off.append(abs(math.log(others.seconds(each.work) / sum(each.seconds.values()))))
        return max(LEAST_ERROR, math.exp(sorted(off)[math.ceil(0.8 * len(off)) - 1]))


def remember(work: Work, epochs: int, seconds: Mapping[str, float]) -> None:
    """Keep what a trial took. seconds: of start, train, measure and save, each in all."""
    machine = machine_name(work.device)
    if machine is None or epochs < 1:
        return
    kept = {part: seconds.get(part, 0.0) for part in ("start", *PARTS)}
    line = json.dumps({"machine": machine, "work": asdict(work), "epochs": epochs, "seconds": kept})
    with contextlib.suppress(OSError):  # a home that cannot be written: later estimates go on without it
        kept_folder().mkdir(parents=True, exist_ok=True)
        with open(kept_folder() / FILE, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def past_of(work: Work) -> Past | None:
    """The newest trials of about this size that ended on a device of this kind here; None where none did."""
    file = kept_folder() / FILE
    with contextlib.suppress(OSError):
        state = (file.stat().st_mtime_ns, file.stat().st_size)
        return _read(file, state, machine_name(work.device), work.device, work.parameters)
    return None


@functools.lru_cache(maxsize=64)
def _read(file: Path, state: tuple[int, int], machine: str | None, device: str, parameters: float) -> Past | None:
    """`state`: when it was written, and its size; a file that has changed is read again."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that is not ours, or was cut
            raw = json.loads(line)
            ended = Ended(Work(**raw["work"]), int(raw["epochs"]), {k: float(v) for k, v in raw["seconds"].items()})
            divisors = [ended.work.epochs, ended.epochs, *(ended.work.counted(part, 1) for part in PARTS)]
            here = raw["machine"] == machine and ended.work.device == device and min(divisors) > 0
            if here and {"start", *PARTS} <= set(ended.seconds) and _near(ended.work.parameters, parameters, _ALIKE):
                found.append(ended)
    return Past(tuple(found[-_MOST:])) if found else None


def _near(one: float, other: float, factor: float) -> bool:
    return one / factor <= other <= one * factor
