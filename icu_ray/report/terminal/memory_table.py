"""What a worker of each model holds, as a table for people and as JSON for scripts (plan/model_memory.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from icu_ray.console.terminal import print_words
from icu_ray.plan.memory import Memory, Use
from icu_ray.plan.model_memory import ModelMemory
from icu_ray.report.terminal.fitting import Heading, print_fitting

TOLD = 1e9
"""Bytes of a worker below which nothing is said of a model."""
_LEAST = 0.05
"""GB below which no number is shown."""


def print_memory(console: Console, found: Sequence[ModelMemory]) -> None:
    """A row for each model that takes more than a little, and what must be said of it; nothing where none does."""
    told = [(each, each.need) for each in found if each.need is not None and each.need.total >= TOLD]
    if told:
        print_words(console, "Memory of one worker in GB, on its GPU or, without one, in main memory (estimated):")
        rows = [_row(each, need) for each, need in told]
        used = [place for place in range(len(_HEADINGS)) if any(row[place] != _NOTHING for row in rows)]
        kept = [[row[place] for place in used] for row in rows]
        print_fitting(console, [_HEADINGS[place] for place in used], kept, where="--json")
    for line in (line for each in found for line in _remarks(each)):
        print_words(console, line)


_NOTHING = "-"
_HEADINGS = (
    *(Heading("model"), Heading("on", spare=6), Heading("training", True), Heading("measuring", True)),
    *(Heading("weights", True), Heading("gradients", True), Heading("Adam", True), Heading("activations", True)),
    *(Heading("scores", True, 4), Heading("original", True, 5), Heading("buffers", True, 3)),
)


def _row(each: ModelMemory, need: Memory) -> list[str]:
    trains = each.use is not None and each.use.train
    sizes = [need.training if trains else 0, need.measuring, need.weights, need.gradients, need.moments + need.master]
    sizes += [need.activations, need.vocabulary, need.reference, need.buffers]
    shown = [_short(value) if value / 1e9 >= _LEAST else _NOTHING for value in sizes]
    return [escape(each.name), "GPU" if each.gpu else "CPU", *shown]


def _remarks(each: ModelMemory) -> list[str]:
    if each.need is None:
        return [f"{each.name}: memory not known: {each.unknown}."]
    said = []
    if each.need.total >= TOLD and each.need.main:
        said.append(f"{each.name}: a worker keeps {_gb(each.need.main)} of Adam's state in main memory.")
    if each.fits is False:
        said.append(f"{each.name} does not fit {_short(each.room or 0)} GB, a tenth of it left free: {_instead(each)}")
    return said


def _instead(each: ModelMemory) -> str:
    if each.better is None or each.use is None or each.better_need is None:
        return "no ZeRO stage, micro batch and number of workers would."
    return f"{' '.join(_changes(each.use, each.better))} would ({_gb(each.better_need.total)})."


def _changes(use: Use, better: Use) -> list[str]:
    """The keys to set, of the model and of what measures it."""
    changed = {
        "workers": (use.workers, better.workers),
        "zero_stage": (use.stage, better.stage),
        "micro_batch": (use.micro_batch, better.micro_batch),
        "eval.chunk": (use.chunk_measured, better.chunk_measured),
        "filter.batch_size": (use.prompts, better.prompts),
    }
    always = ("zero_stage", "micro_batch") if better.train else ()
    return [f"{key}={new}" for key, (old, new) in changed.items() if old != new or key in always]


def _short(value: float) -> str:
    return f"{value / 1e9:.1f}" if value < 1e10 else f"{value / 1e9:.0f}"


def _gb(value: float) -> str:
    return f"{_short(value)} GB"


def memory_json(found: Sequence[ModelMemory]) -> dict[str, Any]:
    """By model; sizes in GB (1e9 bytes)."""
    return {each.name: _json(each) for each in found}


def _json(each: ModelMemory) -> dict[str, Any]:
    if each.need is None:
        return {"unknown": each.unknown}
    need = each.need
    suggestion = None
    if each.use is not None and each.better is not None and each.better_need is not None:
        keys = dict(change.split("=") for change in _changes(each.use, each.better))
        suggestion = {**{key: int(value) for key, value in keys.items()}, "total": _rounded(each.better_need.total)}
    return {
        "of": "gpu" if each.gpu else "main memory",
        **_parts(need),
        "room": None if each.room is None else _rounded(each.room),
        "fits": each.fits,
        "suggestion": suggestion,
    }


def _parts(need: Memory) -> dict[str, float]:
    told = {
        "weights": need.weights,
        "gradients": need.gradients,
        "moments": need.moments,
        "fp32_weights": need.master,
        "activations": need.activations,
        "scores": need.vocabulary,
        "original_model": need.reference,
        "buffers": need.buffers,
        "training": need.training,
        "measuring": need.measuring,
        "total": need.total,
        "offloaded": need.main,
    }
    return {name: _rounded(value) for name, value in told.items()}


def _rounded(value: float) -> float:
    return round(value / 1e9, 4)
