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
import logging
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from icu_ray.plan.machine_speed import machine_name
from icu_ray.storage.files import cache_folder, write_atomic

log = logging.getLogger(__name__)
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
_MOST_BYTES, _MOST_LINES = 2**20, 1000
"""A file that is larger is cut to its newest lines."""
_LEAST = 1e-30
"""Numbers of a trial lie between this and its inverse, or are zero: nothing that is reckoned from them overflows."""


@dataclass(frozen=True)
class Work:
    """What a trial is expected to do, as counted from its config.

    precision: of its weights. shared: whether it has a share of a GPU. start: seconds before and after its epochs.
    epochs: of them. train, measure: operations of a core or a GPU in an epoch. save: bytes that a worker writes in an
    epoch. end: operations that measure the held-out texts once.
    """

    device: Literal["cpu", "gpu"]
    parameters: float
    lr: float
    paired: bool
    precision: str
    shared: bool
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
    """Keep what a trial took. seconds: of start, train, measure and save, each in all.

    Fails never: the trial has ended, and its result is there.
    """
    try:
        machine = machine_name(work.device)
        kept = {part: seconds.get(part, 0.0) for part in ("start", *PARTS)}
        kept["start"] = max(kept["start"], 0.0)  # a clock may have been set back
        line = json.dumps({"machine": machine, "work": asdict(work), "epochs": epochs, "seconds": kept})
        if _parsed(line) is None:
            return
        file = cache_folder() / FILE
        with contextlib.suppress(OSError):  # a home that cannot be written: later estimates go on without it
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "a", encoding="utf-8") as appended:
                appended.write(line + "\n")
            if file.stat().st_size > _MOST_BYTES:  # a line that another trial adds right now may be lost
                newest = file.read_bytes().splitlines(keepends=True)[-_MOST_LINES:]
                write_atomic(str(file), b"".join(newest))
    except Exception:
        log.exception("what the trial took is not kept for later estimates")


def past_of(work: Work) -> Past | None:
    """The newest trials of about this size that ended on such a device here, in this precision; None: none did."""
    file = cache_folder() / FILE
    with contextlib.suppress(OSError):
        found = file.stat()
        return _alike(file, (found.st_mtime_ns, found.st_size), machine_name(work.device), _kind(work), work.parameters)
    return None


def _kind(work: Work) -> tuple[str, str, bool]:
    """Work of another kind goes at another pace."""
    return work.device, work.precision, work.shared


@functools.lru_cache(maxsize=64)
def _alike(
    file: Path, state: tuple[int, int], machine: str | None, kind: tuple[str, str, bool], parameters: float
) -> Past | None:
    found = [
        ended
        for where, ended in _read(file, state)
        if where == machine and _kind(ended.work) == kind and _near(ended.work.parameters, parameters, _ALIKE)
    ]
    return Past(tuple(found[-_MOST:])) if found else None


@functools.lru_cache(maxsize=2)
def _read(file: Path, state: tuple[int, int]) -> tuple[tuple[str, Ended], ...]:
    """Machine and trial of each line. `state`: when it was written, and its size; a changed file is read again."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return tuple(found for found in map(_parsed, lines) if found is not None)


def _parsed(line: str) -> tuple[str, Ended] | None:
    """Machine and trial of a line; None where it is not ours, was cut, or tells what no trial can have taken."""
    with contextlib.suppress(ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        raw = json.loads(line)
        work, epochs = Work(**raw["work"]), int(raw["epochs"])
        seconds = {part: raw["seconds"][part] for part in ("start", *PARTS)}
        above = [work.parameters, work.lr, work.epochs, work.train, work.measure, work.save, epochs]
        above += [seconds["train"], seconds["measure"]]
        least = [work.start, work.end, *seconds.values()]
        possible = min(above) >= _LEAST and min(least) >= 0 and all(each <= 1 / _LEAST for each in (*above, *least))
        if possible and isinstance(raw["machine"], str):
            return raw["machine"], Ended(work, epochs, seconds)
    return None


def _near(one: float, other: float, factor: float) -> bool:
    return one / factor <= other <= one * factor
