"""How long a trial takes, told from its config alone: by measured minutes of an epoch, or by counted operations.

    minutes = estimate_minutes(model, config, targets=128)

estimate_correction.py corrects it by trials that have ended; budget.py says what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from icu_ray.config import ModelConfig, SweepConfig
from icu_ray.models.hub import looks_local
from icu_ray.plan.machine_speed import core_flops

EXPECTED_EPOCHS, STANDIN_EPOCHS = 12, 8
"""Of a real model by the paper's settings, and of a stand-in by the shipped configs'."""
TRIAL_OVERHEAD_MINUTES, STANDIN_OVERHEAD_MINUTES = 0.5, 0.1
"""Start of the workers, loading and saving."""
GPU_FLOPS = 60e12
"""Sustained floating point operations a second of one GPU (bf16/fp32 mix); of a CPU core see machine_speed.py."""
STANDIN_PARAMETERS: Mapping[str, float] = {"small": 0.5e6, "medium": 1.2e6, "large": 3.5e6}


def estimate_minutes(model: ModelConfig, config: SweepConfig, targets: int | None) -> float:
    """Minutes of a trial: expected epochs times measured minutes_per_epoch, or times counted operations.

    An epoch trains targets and pairs (6 operations a parameter and token) and probes the targets (2 a token, about
    five times their tokens by the exact fast algorithm at MA 0.6).
    """
    expected, overhead = EXPECTED_EPOCHS, TRIAL_OVERHEAD_MINUTES
    if model.standin is not None:
        expected, overhead = STANDIN_EPOCHS, STANDIN_OVERHEAD_MINUTES
    epochs = min(expected, model.max_epochs or config.stop.max_epochs)
    if model.minutes_per_epoch is not None:
        return epochs * model.minutes_per_epoch + overhead
    tokens = (targets or 128) * config.columns.length
    operations = parameters_of(model) * tokens * (6 * 2 + 2 * 5)
    rate = GPU_FLOPS * model.gpus if model.gpus else core_flops() * model.cpus_per_worker
    return epochs * operations / (rate * model.workers) / 60 + overhead


def parameters_of(model: ModelConfig) -> float:
    """Parameters by the weights of a model that is a folder, else by the size in its name (gpt-neo-1.3B: 1.3e9).

    1e8 where neither says any.
    """
    if model.standin is not None:
        return STANDIN_PARAMETERS[model.standin.size]
    if model.source is not None and looks_local(model.source):
        files = [*Path(model.source).glob("*.safetensors")] or [*Path(model.source).glob("pytorch_model*.bin")]
        if files:
            # Weights are kept in two bytes or in four; half the right number is near enough for an estimate.
            return sum(file.stat().st_size for file in files) / 4
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([mMbB])(?![A-Za-z])", model.source or "")
    return float(found[-1][0]) * (1e6 if found[-1][1] in "mM" else 1e9) if found else 1e8
