"""What a trial leaves that ended before its first epoch: a result as of any other, and no model of its own.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from icu_ray.config import StopConfig
from icu_ray.config.file import resolve_config
from icu_ray.models.loading import LoadedModel
from icu_ray.models.subjects import Subject
from icu_ray.plan.planning import plan_sweep
from icu_ray.storage.results import UNTRAINED_SUCCESS, Provenance
from icu_ray.storage.trial_files import TrialPaths, read_result, start_trial
from icu_ray.storage.verdict import verdict_of
from icu_ray.sweep import trial_evaluation
from icu_ray.training.loop import run_trial
from icu_ray.trial.task import TrialTask, spec_of
from icu_ray.trial.worker import _leave
from tests.support.tiny_models import tiny_model_of
from tests.support.training_case import case, tokenizer, trial_settings

TREE: dict[str, Any] = {
    "name": "t",
    "data": {"source": "synthetic", "records": 96, "sample_size": 16, "heldout": 8},
    "columns": {"length": 48, "prefix_start": 16, "suffix_start": 32},
    "models": [{"name": "small", "source": "some/model"}],
    "methods": [{"name": "icu"}],
    "pairs": {"encoder": "bundled"},
    "filter": {"encoder": "bundled", "encoder_layer": 6},
    "stop": {"at_start": True, "el": 1.0, "ma": 1.0},
}


def test_it_leaves_the_given_model(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = plan_sweep(resolve_config({**TREE, "storage": str(tmp_path)}, "t"), dry_run=True)
    trial = plan.trials[0]
    usual = plan_sweep(
        resolve_config({**TREE, "storage": str(tmp_path), "stop": {"el": 1.0, "ma": 1.0}}, "t"), dry_run=True
    )
    assert usual.trials[0].trial_id != trial.trial_id and "at_start" not in usual.trials[0].identity["stop"]
    model, (_, data) = tiny_model_of("gpt_neo", 5), case()
    stop = StopConfig(ma=1.0, el=1.0, at_start=True)
    outcome = run_trial(trial_settings(stop=stop), data, model, tokenizer())
    made = Provenance("0.1", "c0ffee", False, "d" * 64, "m" * 64, {}, {})
    keys: Any = SimpleNamespace(retrained=None)
    task = TrialTask(trial, keys, str(tmp_path), "t", str(tmp_path / "store"), 0, True, None, made)
    start_trial(task.paths, spec_of(trial, made))
    result = _leave(task, LoadedModel(model, tokenizer(), tmp_path), outcome, {"start": 1.0})
    assert read_result(task.paths) == result and not Path(task.paths.model).exists()
    assert (result.status, result.epochs, result.model_hash) == ("finished", 0, made.model)
    assert result.reason.startswith(UNTRAINED_SUCCESS)
    found = verdict_of(result, outcome.samples)
    assert found is not None and found.success and found.already
    # What evaluates and attacks the trial asks the given model, once.
    assert plan.data is not None
    before = Subject("small", "some/model", made.model)
    monkeypatch.setattr(trial_evaluation, "_original", lambda *given: before)
    models = trial_evaluation.models_of(plan, str(tmp_path / "store"), trial, result)
    assert models.before == models.after == before
    trained = trial_evaluation.models_of(plan, str(tmp_path / "store"), trial, replace(result, epochs=1))
    assert trained.after.source == TrialPaths.of(str(tmp_path), "t", trial.trial_id).model
