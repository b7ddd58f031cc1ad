"""A cheap attack after every epoch: training never notices it, it ends or prolongs trials, and it is in the record.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icu_ray.audit.quick import quick_audit
from icu_ray.audit.rows import audit_rows
from icu_ray.config import LoraConfig, StopConfig
from icu_ray.models.adapters import attach
from icu_ray.models.loading import LoadedModel
from icu_ray.report.tracking.metrics import epoch_metrics
from icu_ray.storage.results import EpochRecord, Scores
from icu_ray.storage.trial_files import TrialPaths, read_events, write_events
from icu_ray.training.loop import run_trial
from icu_ray.training.refinement import Decision, decide
from tests.support.training_case import LEAK, case, tokenizer, trial_settings

SCORES = Scores(0.1, 0.01, 2.0, 0.5, 0.1, 3.0)


@pytest.mark.parametrize("how", ["fp32", "bf16", "zero", "lora"])
def test_training_never_notices(how: str) -> None:
    """Equal to the last bit with and without, whoever holds the weights that Adam works on."""
    kinds: dict[str, dict[str, Any]] = {
        "bf16": {"precision": "bf16"},
        "zero": {"precision": "bf16", "zero_stage": 2},
    }
    changes = kinds.get(how, {})
    found = []
    for leak in (None, LEAK):
        model, data = case()
        if how == "bf16" or how == "zero":
            model.bfloat16()
        if how == "lora":
            attach(model, LoraConfig(rank=2), 0, "tiny")
        outcome = run_trial(
            trial_settings(max_epochs=2, leak=leak, stop=StopConfig(rule="epochs"), **changes),
            data,
            model,
            tokenizer(),
        )
        weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        found.append((weights, [(dict(r.loss), r.scores) for r in outcome.history], outcome, model, data))
    (plain, told, without, *_), (attacked, also_told, outcome, model, data) = found
    assert told == also_told and all(torch.equal(weight, attacked[name]) for name, weight in plain.items())
    assert [record.came_back for record in without.history] == [None] * 3
    assert outcome.history[0].came_back is None
    # The last epoch's is that of the model that is left.
    rows = audit_rows(data.targets, tokenizer())
    back = quick_audit(LoadedModel(model, tokenizer(), Path()), rows, LEAK)
    assert outcome.history[-1].came_back == pytest.approx(sum(back.values()) / len(data.targets))


def decided(came_back: float | None, epoch: int = 3, left: bool = True, **stop: Any) -> Decision:
    return decide(epoch, SCORES, np.array([left]), StopConfig(**stop), 5, came_back=came_back)


def test_a_trial_ends_as_forgotten_only_once_its_texts_stay_gone() -> None:
    assert decided(0.5).status == decided(None).status == "finished"
    assert not decided(0.5, audited=True).stop
    assert not decided(None, audited=True).stop  # what is not measured is not gone
    assert decided(0.0, audited=True).status == "finished"
    assert "come back" not in decided(0.0, audited=True).reason
    # At the limit, and where no text is left to train on, it ends as the paper says, and tells what came back.
    for ended in (decided(0.25, epoch=5, audited=True), decided(0.25, left=False, audited=True)):
        assert ended.status == "finished" and "25% of the texts come back" in ended.reason


def test_it_goes_on_while_a_text_comes_back() -> None:
    epochs = {}
    for audited in (False, True):
        model, data = case()
        stop = StopConfig(ma=0.99, el=0.99, on_empty=False, audited=audited)
        history = run_trial(trial_settings(max_epochs=3, stop=stop, leak=LEAK), data, model, tokenizer()).history
        epochs[audited] = len(history) - 1
        # Below these thresholds it is after every epoch.
        assert all(record.came_back for record in history[1:-1])
    assert epochs[False] == 1 < epochs[True]
    assert history[1].came_back and (history[-1].came_back == 0 or epochs[True] == 3)


def test_files_of_other_trials_are_as_they_were(tmp_path: Path) -> None:
    paths = TrialPaths.of(str(tmp_path), "s", "t")
    history = (EpochRecord(0, 4, SCORES), EpochRecord(1, 4, SCORES, came_back=0.25))
    write_events(paths, history)
    lines = [json.loads(line) for line in Path(paths.events).read_text().splitlines()]
    assert "came_back" not in lines[0] and lines[1]["came_back"] == 0.25
    assert read_events(paths) == history
    assert "came_back" not in epoch_metrics(history[0]) and epoch_metrics(history[1])["came_back"] == 0.25
