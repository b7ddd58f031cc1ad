"""Trials of the field's methods: equal on one and two workers, frozen parameters, and a dual variable that resumes.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icu_ray.config import StopConfig, TrainConfig
from icu_ray.errors import UserError
from icu_ray.training.batches import epoch_batches
from icu_ray.training.checkpoints import read_state
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialData
from tests.support.field_case import FIELD, field_data, field_epochs
from tests.support.recipe_case import mean_nll
from tests.support.training_case import case, drawn_case, in_windows, some_rows, tokenizer, trial_settings
from tests.support.worker_processes import worker_processes

STAGE_3 = ("undial", "pdu", "pdu-epoch", "idkdpo", "rmu")
"""One of each kind: the original on targets, states, second answers with row losses, states of a layer."""
LONG = StopConfig(ma=0.0, el=0.0, on_empty=False)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """One worker that takes a batch at once."""
    return {name: field_epochs(name) for name in FIELD}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two workers that take their shares row by row, with ZeRO-2."""
    folder = tmp_path_factory.mktemp("field")
    out = folder / "out.pt"
    return worker_processes("tests/support/field_case.py", 2, "2", "2", str(folder / "meet"), str(out), out=out)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FIELD))
def test_workers_and_micro_batches_change_nothing(
    alone: dict[str, dict[str, Any]], two: list[dict[str, Any]], name: str
) -> None:
    one = alone[name]
    for other in two:
        for mine, theirs in zip(one["losses"], other[name]["losses"], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-4)
        # PDU's dual variable is the same number on all workers.
        assert other[name]["state"] == two[0][name]["state"]
        assert other[name]["state"] == pytest.approx(one["state"], rel=1e-4)
        for parameter, value in one["parameters"].items():
            torch.testing.assert_close(other[name]["parameters"][parameter], value, rtol=2e-3, atol=2e-4)


def test_what_a_method_does_not_name_stays_as_it_was(alone: dict[str, dict[str, Any]]) -> None:
    original, _ = field_data("rmu")
    found = alone["rmu"]
    assert found["trained"] == {"transformer.h.0.mlp.c_proj.weight", "transformer.h.0.mlp.c_proj.bias"}
    for name, value in original.named_parameters():
        assert torch.equal(found["parameters"][name], value.detach()) == (name not in found["trained"]), name


def test_frozen_parameters_are_in_no_checkpoint_and_a_trial_goes_on(tmp_path: Path) -> None:
    how = {"method": "rmu", **FIELD["rmu"], "max_epochs": 3, "stop": LONG}
    model, data = field_data("rmu")
    outcome = run_trial(trial_settings(**how), data, model, tokenizer(), on_epoch=saving(tmp_path / "c", at=2))
    assert outcome.epochs == 3
    assert all(parameter.requires_grad for parameter in model.parameters())
    file = next((tmp_path / "c").glob("state/*model_states.pt"))
    saved = torch.load(file, map_location="cpu", weights_only=False)["module"]
    assert set(saved) == {"model.transformer.h.0.mlp.c_proj.weight", "model.transformer.h.0.mlp.c_proj.bias"}
    again, data = field_data("rmu")
    run_trial(trial_settings(**how), data, again, tokenizer(), resume_from=tmp_path / "c")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=0, atol=0)


@pytest.mark.parametrize("update", ["step", "epoch"])
def test_the_dual_variable_is_in_the_checkpoint(update: str, tmp_path: Path) -> None:
    own = {"warmup": 1, "gamma": 0.01, "dual_step": 0.5, "dual_update": update}
    how = {"method": "pdu", "alpha": 1.0, "method_settings": own, "max_epochs": 3, "stop": LONG}
    model, data = field_data("pdu")
    told = run_trial(trial_settings(**how), data, model, tokenizer(), on_epoch=saving(tmp_path / "c", at=2))
    state, _ = read_state(tmp_path / "c")
    assert state.method.keys() == {"dual"} and state.method["dual"] != 1.0
    again, data = field_data("pdu")
    resumed = run_trial(trial_settings(**how), data, again, tokenizer(), resume_from=tmp_path / "c")
    assert resumed.history[-1].loss == told.history[-1].loss
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=0, atol=0)
    # In the first epoch it stayed where it was; the record tells its mean over an epoch's steps.
    assert told.history[1].loss["dual"] == pytest.approx(1.0)
    # In mode "epoch" it stays through an epoch, and the second one has what came after the first.
    if update == "epoch":
        assert told.history[2].loss["dual"] not in (pytest.approx(1.0), pytest.approx(state.method["dual"]))
        assert told.history[3].loss["dual"] == pytest.approx(state.method["dual"])


@pytest.mark.parametrize("by", ["pairs", "epoch", "retain"])
def test_the_dual_variable_follows_the_coming_epochs_pairs(by: str) -> None:
    """Beside plain code: the pairs' mean loss over batches, by the model as the epoch left it."""
    model, data = case() if by == "pairs" else drawn_case(by)
    own: dict[str, Any] = {"warmup": 1, "gamma": 0.01, "dual_step": 0.5, "dual_update": "epoch", "eps": 0.2}
    train = TrainConfig(batch_size=4, anchor="retain" if by == "retain" else "forget")
    settings = trial_settings(method="pdu", alpha=1.0, method_settings=own, max_epochs=3, train=train)
    trainer = EpochTrainer(settings, data, model, tokenizer(), 0, 1)
    active, dual = np.array([flag == "1" for flag in "1011101"]), 1.0
    assert data.pairs is not None
    for epoch in (1, 2, 3):
        trainer.train(epoch, active)
        if epoch < 3:
            rows = data.epoch_rows(settings.seed, epoch + 1, active)
            assert rows.pairs is not None
            told: dict[str, Any] = {"seed": settings.seed, "epoch": epoch + 1, "batch_size": 4, "settings": train}
            batches = epoch_batches(rows.live, **told)
            with torch.no_grad():
                losses = [mean_nll(model, data.pairs, rows.pairs[batch[rows.live[batch]]]).item() for batch in batches]
            dual = max(0.0, dual + 0.5 * (np.mean(losses) - 0.2))
        assert trainer.method.state()["dual"] == pytest.approx(dual, rel=1e-5)
    trainer.close()


def test_an_epoch_in_which_all_is_forgotten_moves_no_dual_variable() -> None:
    model, data = case()
    own: dict[str, Any] = {"warmup": 0, "dual_update": "epoch"}
    trainer = EpochTrainer(trial_settings(method="pdu", alpha=1.0, method_settings=own), data, model, tokenizer(), 0, 1)
    trainer.train(1, np.zeros(7, dtype=bool))
    assert trainer.method.state() == {"dual": 1.0}
    trainer.close()


def saving(folder: Path, at: int) -> Any:
    def on_epoch(report: EpochReport) -> None:
        if report.record.epoch == at:
            report.save(folder)

    return on_epoch


def test_a_method_that_would_train_nothing_is_refused() -> None:
    model, data = field_data("rmu")
    settings = trial_settings(method="rmu", method_settings={"layer": 0, "train_parameters": "down_proj"})
    with pytest.raises(UserError, match="none of the model's parameters"):
        EpochTrainer(settings, data, model, tokenizer(), 0, 1)


def test_each_epoch_draws_its_answers_anew_for_each_window_of_a_text() -> None:
    _, data = field_data("idknll")
    assert data.answers is not None and data.alternates is not None
    drawn = [data.answers_beside(42, epoch) for epoch in (1, 2, 3, 4)]
    names = [[data.alternates.ids[place] for place in each] for each in drawn if each is not None]
    assert len({tuple(each) for each in names}) > 1
    assert all(name.split(":")[0] == str(target) for each in names for target, name in enumerate(each))
    windows = replace(data, targets=in_windows(some_rows(9, 1), [0, 0, 1, 2, 3, 4, 5, 6, 6]))
    found = windows.answers_beside(42, 1)
    assert found is not None and found[0] == found[1] and found[7] == found[8]


def test_a_trial_learns_its_sentences() -> None:
    """IdkNLL descends on the second answers: their loss falls, the targets' rises."""
    model, data = field_data("idknll")
    settings = trial_settings(method="idknll", alpha=0.0, max_epochs=4, stop=LONG)
    outcome = run_trial(settings, data, model, tokenizer())
    losses = [record.loss["forget"] for record in outcome.history[1:]]
    assert losses[-1] is not None and losses[0] is not None and losses[-1] < losses[0]
    assert outcome.before.forget_loss is not None and outcome.after.forget_loss is not None
    assert outcome.after.forget_loss > outcome.before.forget_loss


@pytest.mark.parametrize(("name", "stage"), [*((n, 2) for n in FIELD), *((n, 3) for n in STAGE_3)])
def test_stages_of_zero_change_nothing(alone: dict[str, dict[str, Any]], name: str, stage: int) -> None:
    found = field_epochs(name, zero_stage=stage)
    for parameter, value in alone[name]["parameters"].items():
        torch.testing.assert_close(found["parameters"][parameter], value, rtol=2e-3, atol=2e-4)


def test_without_second_answers_a_method_says_what_it_lacks() -> None:
    model, data = field_data("idkdpo")
    bare: TrialData = replace(data, alternates=None, answers=None)
    trainer = EpochTrainer(trial_settings(method="idkdpo"), bare, model, tokenizer(), 0, 1)
    with pytest.raises(ValueError, match="alternate_ids"):
        trainer.train(1, np.ones(7, dtype=bool))
