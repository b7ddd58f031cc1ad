"""The task vector: what it leaves beside plain torch code and the oracles, measured, kept and resumed.

Needs: a C++ compiler (DeepSpeed); ../shared for one of its tests.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icu_ray import methods
from icu_ray.config import EvalConfig, OptimConfig, StopConfig
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from tests.methods.test_field_oracles import ANSWERS_KL, Oracle
from tests.support.recipe_case import mean_nll, plain_epochs
from tests.support.training_case import FILTER, SMOOTH, case, tokenizer, trial_settings

SCALE = 3.0


def settings_of(**changes: Any) -> Any:
    told = {
        "method": "task_vector",
        "method_settings": {"scale": SCALE},
        "lr": 1e-3,
        "max_epochs": 3,
        "optim": OptimConfig(eps=SMOOTH.eps, schedule="cosine"),
        "stop": StopConfig(rule="epochs", ma=0.2, el=0.05),
        "filter": FILTER.model_copy(update={"rule": "never"}),
    }
    return trial_settings(**(told | changes))


def trial(resume: Path | None = None, save: Path | None = None, **changes: Any) -> tuple[TrialOutcome, Any]:
    def on_epoch(report: EpochReport) -> None:
        if save is not None and report.record.epoch == 2:
            report.save(save)

    model, data = case()
    settings = settings_of(**changes)
    return run_trial(settings, data, model, tokenizer(), resume_from=resume, on_epoch=on_epoch), model


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    """What is left after plain fine-tuning."""

    def descent(model: Any, data: Any, batch: np.ndarray) -> Any:
        return torch.autograd.grad(mean_nll(model, data.targets, batch), list(model.parameters()))

    tuned = plain_epochs(descent, settings_of(), 3)
    before = dict(case()[0].named_parameters())
    return {n: (w.detach().double() - SCALE * (tuned[n].double() - w.detach().double())) for n, w in before.items()}


@pytest.mark.parametrize("how", [{}, {"zero_stage": 1, "micro_batch": 2}, {"zero_stage": 2}])
def test_what_is_left_is_the_original_less_the_vector(how: dict[str, Any], expected: Any) -> None:
    outcome, model = trial(**how)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-3, atol=1e-4)
    assert outcome.epochs == 3
    losses = [record.scores.forget_loss for record in outcome.history]
    # What is measured is what would be left, not what is trained: the targets become less likely.
    assert losses == sorted(losses)
    assert outcome.after.forget_loss == losses[-1] > outcome.before.forget_loss


def test_measuring_changes_nothing_of_what_is_trained() -> None:
    found = []
    for measured in (False, True):
        model, data = case()
        trainer = EpochTrainer(settings_of(), data, model, tokenizer(), 0, 1)
        for epoch in (1, 2):
            trainer.train(epoch, np.ones(7, dtype=bool))
            before = copy.deepcopy(model.state_dict())
            if measured:
                trainer.validate()
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        trainer.close()
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_a_resumed_trial_leaves_the_same(tmp_path: Path) -> None:
    told, model = trial(save=tmp_path / "c", zero_stage=1)
    again, other = trial(resume=tmp_path / "c", zero_stage=1)
    assert again.after == told.after
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_the_best_epochs_model_is_kept_as_it_was_measured(tmp_path: Path) -> None:
    """The cheapest of those that are forgotten, or the nearest: here the limit leaves the first alone."""
    stop = StopConfig(rule="epochs", ma=0.2, el=0.05, keep="best", max_ppl_ratio=1.0001)

    def on_epoch(report: EpochReport) -> None:
        report.save_weights(tmp_path / f"{report.record.epoch}")

    model, data = case()
    settings = settings_of(stop=stop, eval=EvalConfig(heldout="epochs"))
    outcome = run_trial(
        settings,
        data,
        model,
        tokenizer(),
        on_epoch=on_epoch,
        best_weights=lambda epoch: nullcontext(tmp_path / str(epoch)),
    )
    kept = outcome.kept_epoch or outcome.epochs
    assert outcome.after.forget_loss == pytest.approx(outcome.history[kept].scores.forget_loss, rel=1e-5)
    assert outcome.after.ppl_heldout == pytest.approx(outcome.history[kept].scores.ppl_heldout, rel=1e-5)


def test_subtraction_is_the_oracles(shared: Path) -> None:
    folder = shared / "oracles" / "C"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    oracle = Oracle(folder)
    known = oracle.variants["task_vector"]
    method = methods.get("task_vector", loss=ANSWERS_KL)

    def loss(model: Any, batch: str, name: str = "task_vector") -> Any:
        made = methods.get(name, alpha=1.0, loss=ANSWERS_KL)
        return made.loss(model, oracle.batch(made, batch, "target", ANSWERS_KL))

    target = oracle.models["target"]
    model = copy.deepcopy(target)
    loss(model, "A").total.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
        assert loss(model, "A").total.item() == pytest.approx(known["forget_mean_loss_of_theta_ft_batch_A"], rel=1e-4)
        for parameter, before in zip(model.parameters(), target.parameters(), strict=True):
            parameter.copy_(method.left(before, parameter))
        for batch, wanted in known["after_subtraction"].items():
            parts = loss(model, batch, "graddiff").parts
            assert parts["forget"].item() == pytest.approx(wanted["forget_mean_loss"], rel=1e-4)
            assert parts["retain"].item() == pytest.approx(wanted["retain_mean_loss"], rel=1e-4)
