"""AdamW, schedules, clipping and fixed numbers of epochs or steps, beside plain torch code, and where a trial resumes.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from icu_ray.config import OptimConfig, StopConfig
from icu_ray.storage.results import Scores
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialOutcome
from icu_ray.training.refinement import decide, forgotten, refine
from icu_ray.training.schedules import Schedule, schedule_of
from tests.support.recipe_case import mean_nll, plain_epochs
from tests.support.training_case import FILTER, case, tokenizer, trial_settings

Form = Literal["constant", "linear", "cosine"]
ARGUMENTS: dict[str, Any] = {
    "betas": (0.9, 0.999),
    "eps": 1e-3,
    "weight_decay": 0.1,
    "warmup_epochs": 1,
    "clip": 0.05,
}
GONE, KNOWN = Scores(0.1, 0.01, 5.0, 0.1, 0.0, 9.0), Scores(0.9, 0.5, 1.0, 0.9, 0.5, 1.0)
EPOCHS = StopConfig(rule="epochs", ma=0.5, el=0.1)


def settings_of(schedule: str = "linear", **changes: Any) -> Any:
    optim = OptimConfig(schedule=schedule, **ARGUMENTS)  # type: ignore[arg-type]
    return trial_settings(**({"method": "kumpr", "optim": optim, "max_epochs": 3, "stop": EPOCHS} | changes))


def trained(settings: Any, epochs: int = 2) -> dict[str, torch.Tensor]:
    model, data = case()
    trainer = EpochTrainer(settings, data, model, tokenizer(), 0, 1)
    for epoch in range(1, epochs + 1):
        trainer.train(epoch, np.ones(len(data.targets), dtype=bool))
    trainer.close()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("schedule", "stage", "micro"), [("linear", 0, None), ("cosine", 1, 1), ("linear", 2, 2), ("constant", 2, None)]
)
def test_steps_are_those_of_plain_code(schedule: str, stage: int, micro: int | None) -> None:
    settings = settings_of(schedule, zero_stage=stage, micro_batch=micro)

    def ascent(model: Any, data: Any, batch: np.ndarray) -> Any:
        return torch.autograd.grad(-mean_nll(model, data.targets, batch), list(model.parameters()))

    expected = plain_epochs(ascent, settings, 2)
    for name, parameter in trained(settings).items():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5)


def test_each_argument_changes_the_steps() -> None:
    plain = trained(settings_of(), 1)
    for key, value in (("weight_decay", 0.0), ("warmup_epochs", 0), ("clip", None)):
        optim = OptimConfig(schedule="linear", **{**ARGUMENTS, key: value})
        other = trained(settings_of(optim=optim), 1)
        assert any(not torch.equal(other[name], parameter) for name, parameter in plain.items()), key


def whole(folder: Path | None = None, resume: Path | None = None, **changes: Any) -> tuple[TrialOutcome, Any]:
    model, data = case()

    def on_epoch(report: EpochReport) -> None:
        if folder is not None and report.record.epoch == 2:
            report.save(folder)

    settings = settings_of("cosine", **changes)
    return run_trial(settings, data, model, tokenizer(), on_epoch=on_epoch, resume_from=resume), model


@pytest.mark.parametrize("changes", [{"zero_stage": 1}, {"stop": EPOCHS.model_copy(update={"max_steps": 5})}])
def test_a_resumed_trial_goes_on_with_its_schedule(tmp_path: Path, changes: dict[str, Any]) -> None:
    told, model = whole(tmp_path / "c", **changes)
    again, other = whole(resume=tmp_path / "c", **changes)
    assert again.epochs == told.epochs == 3
    assert again.history[-1].loss == told.history[-1].loss
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_max_steps_ends_a_trial_in_the_midst_of_an_epoch() -> None:
    outcome, _ = whole(stop=EPOCHS.model_copy(update={"max_steps": 3, "ma": 0.0}))
    assert [record.steps for record in outcome.history] == [0, 2, 1]
    assert outcome.status == "not_forgotten" and outcome.reason.startswith("step limit 3 reached")


def test_the_schedule_counts_with_the_steps_there_are() -> None:
    settings = settings_of(max_epochs=10)  # 7 rows in batches of 4
    found = schedule_of(settings, 7)
    assert (found.warm, found.steps) == (1, 20)
    capped = schedule_of(settings_of(max_epochs=10, stop=EPOCHS.model_copy(update={"max_steps": 9})), 7)
    assert capped.steps == 9 and capped.rate(8) == pytest.approx(settings.lr / 8)


def test_by_rule_epochs_nothing_ends_a_trial_early() -> None:
    nobody, some = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    assert not decide(1, GONE, some, EPOCHS, 2).stop
    assert not decide(1, KNOWN, nobody, EPOCHS, 2).stop
    assert decide(2, GONE, some, EPOCHS, 2).status == "finished"
    assert decide(2, KNOWN, nobody, EPOCHS, 2).status == "not_forgotten"
    diverged = Scores(0.1, 0.0, None, None, None, None)
    assert decide(1, diverged, some, EPOCHS, 2).status == "failed"


def test_by_filter_rule_never_all_targets_stay() -> None:
    never = FILTER.model_copy(update={"rule": "never", "bertscore": 1.0, "bleu": 1.0})
    low, flags = np.zeros(3), np.ones(3, dtype=bool)
    assert not forgotten(low, low, never).any()
    assert refine(flags, low, low, never).all()


@pytest.mark.parametrize("form", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("rows", "warmup"), [(7, 0), (7, 1), (7, 2.6), (40, 1)])
def test_rates_are_those_of_transformers_schedulers(form: Form, rows: int, warmup: float) -> None:
    """Also the first step of a warm-up, which has none."""
    settings = settings_of(optim=OptimConfig(schedule=form, warmup_epochs=warmup), max_epochs=5)
    found = schedule_of(settings, rows)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=settings.lr)
    told = {"num_warmup_steps": found.warm}
    theirs = {
        "constant": lambda: get_constant_schedule_with_warmup(optimizer, **told),
        "linear": lambda: get_linear_schedule_with_warmup(optimizer, **told, num_training_steps=found.steps),
        "cosine": lambda: get_cosine_schedule_with_warmup(optimizer, **told, num_training_steps=found.steps),
    }[form]()
    for step in range(found.steps):
        assert found.rate(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18), step
        optimizer.step()
        theirs.step()
    assert found.warm == 0 or found.rate(0) == 0


def test_a_warm_up_by_numbers() -> None:
    ours, theirs = (Schedule(1.0, "linear", warm=4, steps=8, from_zero=zero) for zero in (False, True))
    assert [ours.rate(step) for step in range(8)] == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [theirs.rate(step) for step in range(8)] == [0.0, 0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25]


def test_a_step_at_a_rate_of_nothing_changes_no_weight() -> None:
    model, data = case()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = settings_of(batch_size=7)  # an epoch of one step, which is the warm-up
    trainer = EpochTrainer(settings, data, model, tokenizer(), 0, 1)
    trainer.train(1, np.ones(7, dtype=bool))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    trainer.train(2, np.ones(7, dtype=bool))
    trainer.close()
    assert not any(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
