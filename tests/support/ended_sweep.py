"""A sweep of one small model as it is, whose only trial has ended: what asks models of finished trials begins here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icu_ray.config.file import resolve_config
from icu_ray.models.fingerprints import folder_fingerprint
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.results import Provenance, Scores, TrialResult
from icu_ray.storage.trial_files import TrialPaths, write_result
from tests.support.evaluation_case import save_model


def ended_sweep(folder: Path, more: Mapping[str, Any]) -> Plan:
    """more: sections of the config, such as `evaluation`."""
    model = save_model(folder / "model", 0)
    tree: dict[str, Any] = {
        "name": "t",
        "storage": str(folder / "runs"),
        "data": {"source": "synthetic", "records": 16, "sample_size": 4, "heldout": 2},
        "models": [{"name": "m", "source": str(model), "gpus_per_worker": 0, "unlearn": False}],
        "pairs": {"encoder": "bundled"},
        "filter": {"encoder": "bundled", "encoder_layer": 6},
        **more,
    }
    plan = plan_sweep(resolve_config(tree, "test"))
    trial = plan.trials[0]
    scores = Scores(0.1, 0.0, 3.0, 0.2, 0.0, 4.0)
    result = TrialResult(
        trial.trial_id,
        trial.name,
        "m",
        "original",
        0,
        trial.hyperparameters,
        "not_forgotten",
        "not trained",
        0,
        scores,
        scores,
        {"total": 1.0},
        Provenance("0", "0", False, model=folder_fingerprint(model)),
        model_hash=folder_fingerprint(model),
    )
    write_result(TrialPaths.of(str(folder / "runs"), "t", trial.trial_id), result)
    return plan_sweep(resolve_config(tree, "test"))
