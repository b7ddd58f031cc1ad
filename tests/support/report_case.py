"""Sweeps written by hand, as trials leave them, for tests of the report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icu_ray.storage.results import EpochRecord, Provenance, SampleRecord, Scores, TrialResult, TrialSpec
from icu_ray.storage.trial_files import TrialPaths, open_sweep, start_trial, write_events, write_result, write_samples

TARGETS = 4
REFERENCE = "Alice Smith lives at 12 Elm Street and was born in 1971"


@dataclass(frozen=True)
class Cell:
    """A trial to write. final: MA and EL (fractions), held-out PPL, entropy after it."""

    label: str = "icu"
    method: str = "icu"
    alpha: float = 0.5
    beta: float = 1.0
    sample: int = 0
    model: str = "125m"
    final: tuple[float, float, float, float] = (0.55, 0.04, 24.0, 3.8)
    status: str | None = "finished"
    epochs: int = 4
    seed: int = 42
    reason: str = ""
    lr: float = 5e-6
    ngram: int = 10
    stop_ma: float | None = None
    own: tuple[tuple[str, float | str], ...] = ()
    """Settings of the method itself."""
    losses: tuple[float, ...] | None = None
    """Of each target after it; before it they are 0.1, 0.2 and so on."""

    @property
    def trial_id(self) -> str:
        """Unique among the cells of a test."""
        others = ("" if self.lr == 5e-6 else f"-{self.lr}") + ("" if self.ngram == 10 else f"-el{self.ngram}")
        others += "" if self.stop_ma is None else f"-stop{self.stop_ma}"
        others += "".join(f"-{key}{value}" for key, value in self.own)
        return f"{self.label}-{self.model}-s{self.sample}-a{self.alpha}-b{self.beta}-{self.seed}{others}"


def config(
    name: str,
    models: tuple[str, ...] = ("125m",),
    lr: float = 5e-6,
    standin: bool = False,
    ngram: int | None = None,
) -> dict[str, Any]:
    """A resolved config with the keys the report reads."""
    described = [
        {
            "name": model,
            "source": None if standin else f"EleutherAI/gpt-neo-{model}",
            "standin": {"size": "small"} if standin else None,
        }
        for model in models
    ]
    stop = {"rule": "and", "ma": 0.5994, "el": 0.0499}
    known = {"name": name, "fidelity": "default", "models": described, "optim": {"lr": lr}, "stop": stop}
    return {**known, "storage": "x", **({} if ngram is None else {"el": {"ngram": ngram}})}


def scores(ma: float, el: float, ppl: float, entropy: float) -> Scores:
    """What a probe leaves."""
    return Scores(ma, el, 1.0 - math.log(ma + 1e-3), 0.5 * ma + 0.2, el / 2, entropy, 0.8, ppl)


BEFORE = scores(0.95, 0.8, 20.0, 4.2)


def write_sweep(
    storage: Path, name: str, cells: list[Cell], settings: dict[str, Any] | None = None, said: str = "nothing of it"
) -> Path:
    """A sweep's folder with every cell as far as its status says: None is not started, 'running' has no result."""
    lr = cells[0].lr
    models = tuple(dict.fromkeys(cell.model for cell in cells))
    described = settings or config(name, models, lr)
    made_by = Provenance("0.1.0", "c0ffee" * 7, False, data="d" * 64, model="m" * 64, config=described)
    specs = [_spec(cell, made_by) for cell in cells]
    open_sweep(str(storage), name, described, specs, made_by)
    for cell, spec in zip(cells, specs, strict=True):
        if cell.status is not None:
            _write_trial(TrialPaths.of(str(storage), name, spec.trial_id), cell, spec, said)
    return storage / name


def _spec(cell: Cell, made_by: Provenance) -> TrialSpec:
    weights = {"alpha": cell.alpha, "beta": cell.beta, "lr": cell.lr, "seed": cell.seed, **dict(cell.own)}
    identity = {
        "method": {"name": cell.method, "alpha": cell.alpha, "beta": cell.beta, "settings": dict(cell.own)},
        "optim": {"lr": cell.lr},
        "sample": f"sample {cell.sample}",
        "seed": cell.seed,
        **({} if cell.ngram == 10 else {"el": {"ngram": cell.ngram}}),
        "stop": {"rule": "and", "ma": 0.5994 if cell.stop_ma is None else cell.stop_ma, "el": 0.0499},
    }
    name = f"{cell.label}-{cell.model}-s{cell.sample}-a{cell.alpha}-b{cell.beta}"
    return TrialSpec(cell.trial_id, name, cell.model, cell.label, cell.sample, weights, 30, identity, None, made_by)


def _write_trial(paths: TrialPaths, cell: Cell, spec: TrialSpec, said: str) -> None:
    start_trial(paths, spec)
    original, end = (replace(found, ngram=cell.ngram) for found in (BEFORE, scores(*cell.final)))
    history = [EpochRecord(0, TARGETS, original)]
    for epoch in range(1, cell.epochs + 1):
        part = epoch / cell.epochs
        first = (BEFORE.ma or 0, BEFORE.el or 0, BEFORE.ppl_heldout or 0, BEFORE.entropy or 0)
        now = scores(*(a + (b - a) * part for a, b in zip(first, cell.final, strict=True)))
        now = replace(now, ngram=cell.ngram)
        history.append(EpochRecord(epoch, round(TARGETS * (1 - part)), now, {"forget": -part}, {"train": 1.0}, 2))
    write_events(paths, history)
    if cell.status == "running":
        return
    ma = cell.final[0]
    samples = [
        SampleRecord(f"r{i}", "The record says that", REFERENCE, REFERENCE, said, 0.95, ma + i / 100, 0.3, 0.0, True)
        for i in range(TARGETS)
    ]
    samples = [replace(sample, el_after=cell.final[1], ngram=cell.ngram) for sample in samples]
    if cell.losses is not None:
        samples = [
            replace(sample, loss_before=(place + 1) / 10, loss_after=loss)
            for place, (sample, loss) in enumerate(zip(samples, cell.losses, strict=True))
        ]
    write_samples(paths, samples)
    result = TrialResult(
        spec.trial_id,
        spec.name,
        spec.model,
        spec.method,
        spec.sample,
        spec.hyperparameters,
        cell.status,  # type: ignore[arg-type]
        cell.reason,
        cell.epochs,
        original,
        end,
        {"total": 9.0},
        spec.provenance,
    )
    write_result(paths, result)
