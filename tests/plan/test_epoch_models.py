"""What the plan says of evaluation.when=epochs, and what it refuses.

Needs: nothing.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icu_ray.config.file import resolve_config
from icu_ray.errors import UserError
from icu_ray.plan.epoch_models import bytes_kept, epoch_models_said
from icu_ray.plan.grid import Plan
from icu_ray.plan.planning import plan_sweep
from icu_ray.report.terminal.plan_table import plan_json, print_plan
from icu_ray.storage.epoch_evaluations import EpochEvaluation
from icu_ray.storage.epoch_files import add_epoch_evaluation
from icu_ray.storage.results import Scores, TrialResult
from icu_ray.storage.trial_files import TrialPaths, write_result

SCORES = Scores(0.1, 0.0, 3.0, 0.2, 0.0, 4.0)


def planned(folder: Path, evaluation: dict[str, Any], **more: Any) -> Plan:
    tree: dict[str, Any] = {
        "name": "t",
        "storage": str(folder),
        "data": {"source": "synthetic", "records": 24, "sample_size": 4, "heldout": 4},
        "columns": {"length": 64, "prefix_start": 32, "suffix_start": 48},
        "models": [{"name": "small", "standin": {"size": "small"}, "retrained": True}],
        "methods": [{"name": "kumpr"}, {"name": "icu", "stop": {"max_epochs": 4}}],
        "stop": {"max_epochs": 10},
        "evaluation": evaluation,
        **more,
    }
    return plan_sweep(resolve_config(tree, "t"), dry_run=True)


def ended(plan: Plan, label: str, epochs: int) -> TrialPaths:
    trial = next(trial for trial in plan.trials if trial.label == label)
    paths = TrialPaths.of(plan.config.storage, "t", trial.trial_id)
    status, hash_ = "not_forgotten", "h" * 64
    told = (
        trial.trial_id,
        trial.name,
        "small",
        label,
        0,
        trial.hyperparameters,
        status,
        "",
        epochs,
        SCORES,
        SCORES,
        {},
    )
    write_result(paths, TrialResult(*told, model_hash=hash_))  # type: ignore[arg-type]
    return paths


def test_the_models_and_the_disk_are_said(tmp_path: Path) -> None:
    assert epoch_models_said(planned(tmp_path, {"suites": ["quick"]})) == []
    plan = planned(tmp_path, {"suites": ["quick"], "when": "epochs"})
    (said,) = epoch_models_said(plan)
    size = bytes_kept(plan.config.models[0], plan.config)
    assert size is not None and 1e6 < size < 5e6
    assert "up to 12 more models" in said and f"{size / 1e6:.3g} MB a model of small" in said
    assert f"at most {12 * size / 1e6:.3g} MB in all" in said
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=2000))
    assert said in out.getvalue() and json.loads(plan_json(plan))["evaluated_by_epoch"] == [said]
    # Where the best epoch's model is left, the last one is kept for its evaluation too.
    stop = {"max_epochs": 10, "keep": "best"}
    best = planned(tmp_path, {"suites": ["quick"], "when": "epochs"}, stop=stop, eval={"heldout": "epochs"})
    assert "up to 14 more models" in epoch_models_said(best)[0]


def test_of_an_adapter_that_alone_is_kept(tmp_path: Path) -> None:
    lora = {"name": "m", "source": "EleutherAI/pythia-160m", "lora": {"rank": 8}, "precision": "bf16"}
    whole = {**lora, "lora": None}
    trained = {**lora, "train": {"epochs": 1}}
    found = []
    for model in (lora, whole, trained):
        config = resolve_config(
            {
                "name": "t",
                "data": {"source": "synthetic", "records": 24, "sample_size": 4},
                "models": [model],
                "methods": [{"name": "kumpr"}],
            },
            "t",
        )
        found.append(bytes_kept(config.models[0], config))
    adapter, model_, merged = found
    if model_ is None:
        pytest.skip("nothing here tells the size of pythia-160m")
    assert adapter is not None and adapter < model_ / 20 and merged == model_


def test_trials_that_ended_without_them_are_said(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"suites": ["quick"], "when": "epochs"})
    paths = ended(plan, "kumpr", 7)
    again = planned(tmp_path, {"suites": ["quick"], "when": "epochs"})
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in plan.trials]
    first, second = epoch_models_said(again)
    assert "up to 3 more models" in first
    assert second.endswith("have no curve, and are not run again: kumpr-small-s0.")
    add_epoch_evaluation(paths, EpochEvaluation(1, "h", {}, {}))
    assert epoch_models_said(again) == [first]
    ended(plan, "icu", 1)  # no epoch lies between its first and its last
    assert epoch_models_said(planned(tmp_path, {"suites": ["quick"], "when": "epochs"})) == []


def test_nothing_to_evaluate_is_refused() -> None:
    with pytest.raises(UserError, match="evaluation: when=epochs: there is nothing to evaluate; give suites or tasks"):
        planned(Path("runs"), {"when": "epochs"})
