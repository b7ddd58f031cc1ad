"""Fine-tuning: what plain PyTorch gives, alike on several workers and after an interruption, and when it ends.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config import ModelConfig, ModelTrainingConfig, SweepConfig
from icu_ray.data.examples import TokenRows
from icu_ray.errors import UserError
from icu_ray.models.fingerprints import model_fingerprint
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.training.engine import distributed
from icu_ray.training.finetuning import FinetuneReport, finetune, finetune_settings
from icu_ray.training.schedules import Schedule
from tests.support.plain_finetuning import plainly_finetuned
from tests.support.tiny_models import tiny_model
from tests.support.training_case import some_rows, tokenizer

ROWS = 10


def how_of(**changes: object) -> tuple[ModelTrainingConfig, TrialSettings]:
    values: dict[str, object] = {"epochs": 3, "lr": 3e-3, "batch_size": 4, "weight_decay": 0.1}
    model = ModelConfig.model_validate({"name": "m", "source": "some/model", "train": values | changes})
    sweep = SweepConfig.model_validate(
        {"name": "s", "models": (model,), "data": {"source": "synthetic"}, "methods": ({"name": "icu"},)}
    )
    assert model.train is not None
    return model.train, finetune_settings(model, sweep)


def trained(rows: TokenRows, samples: Mapping[int, Any] | None = None, **how: Any) -> tuple[Any, Any]:
    told, model = how.pop("told", how_of()), how.pop("model", None) or tiny_model("gpt_neo", seed=0)
    with distributed(0, 1):
        history = finetune(*told, rows, samples or {}, model, tokenizer(), **how)
    return model, history


def test_it_is_adamw_on_the_mean_of_a_batchs_tokens() -> None:
    rows = some_rows(ROWS, 1)
    how, settings = how_of()
    model, history = trained(rows, told=(how, settings))
    plain = tiny_model("gpt_neo", seed=0)
    losses = plainly_finetuned(plain, rows, how, settings.optim.betas)
    assert [record.loss["learn"] for record in history] == pytest.approx(losses, rel=1e-4)
    for (name, one), two in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_same_at_every_zero_stage(stage: int) -> None:
    """The schedule reaches the optimizer that ZeRO has wrapped, and the weights are whole in the end."""
    rows = some_rows(ROWS, 1)
    how, settings = how_of()
    model, history = trained(rows, told=(how, replace(settings, zero_stage=stage)), samples={0: np.arange(3)})
    plain = tiny_model("gpt_neo", seed=0)
    losses = plainly_finetuned(plain, rows, how, settings.optim.betas)
    assert [record.loss["learn"] for record in history] == pytest.approx(losses, rel=1e-4)
    assert all(record.scores.ma is not None for record in history)
    for (name, one), two in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_in_bf16_it_learns_as_in_fp32(stage: int) -> None:
    rows = some_rows(ROWS, 1)
    how, settings = how_of(epochs=6)
    _, exact = trained(rows, told=(how, settings))
    model = tiny_model("gpt_neo", seed=0).to(torch.bfloat16)
    rounded = replace(settings, precision="bf16", zero_stage=stage)
    _, history = trained(rows, told=(how, rounded), model=model)
    first, last = (float(exact[place].loss["learn"] or 0.0) for place in (0, -1))
    ends = float(history[-1].loss["learn"] or 0.0)
    assert last < first and ends == pytest.approx(last, abs=0.15 * (first - last))


def test_it_ends_when_the_sample_that_is_known_least_is_known() -> None:
    rows = some_rows(ROWS, 1)
    samples = {0: np.arange(3), 1: np.arange(5, 8)}
    told = how_of(epochs=60, min_memorization=0.5, schedule="constant", lr=1e-2)
    _, history = trained(rows, samples, told=told)
    reached = [record.scores.ma for record in history]
    assert 1 < len(history) < 60 and reached[-1] >= 0.5 and max(reached[:-1]) < 0.5


def test_what_is_not_learnt_is_refused() -> None:
    with pytest.raises(UserError, match=r"not memorised after epochs=1: MA 0\.\d+ \(min_memorization=0.99\)"):
        trained(some_rows(ROWS, 1), {0: np.arange(3)}, told=how_of(epochs=1, min_memorization=0.99))


def test_the_gold_standard_ends_with_its_model_on_the_same_schedule() -> None:
    rows, passed = some_rows(ROWS, 1), list[dict[str, torch.Tensor]]()
    kept: list[FinetuneReport] = []

    model = tiny_model("gpt_neo", seed=0)

    def remember(report: FinetuneReport) -> None:
        passed.append({name: p.detach().clone() for name, p in model.named_parameters()})

    trained(rows, told=how_of(epochs=3), on_epoch=remember, model=model)
    gold, history = trained(rows, epochs=2, told=how_of(epochs=3, min_memorization=0.99), on_epoch=kept.append)
    assert [report.over for report in kept] == [False, True] and len(history) == 2
    for name, parameter in gold.named_parameters():
        torch.testing.assert_close(parameter, passed[1][name], msg=name)
    assert not torch.equal(passed[1]["transformer.wte.weight"], passed[2]["transformer.wte.weight"])


def test_an_interrupted_one_ends_with_the_same_weights(tmp_path: Path) -> None:
    rows = some_rows(ROWS, 1)
    folder = tmp_path / "checkpoint"

    class Interrupted(Exception):
        pass

    def leave(report: FinetuneReport) -> None:
        report.save(folder)
        raise Interrupted

    with pytest.raises(Interrupted):
        trained(rows, on_epoch=leave)
    resumed, history = trained(rows, resume_from=folder)
    whole, all_at_once = trained(rows)
    assert [record.epoch for record in history] == [1, 2, 3]
    assert [r.loss["learn"] for r in history] == pytest.approx([r.loss["learn"] for r in all_at_once], rel=1e-6)
    for one, two in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_step_that_is_too_large_is_said() -> None:
    with pytest.raises(UserError, match=r"diverged in epoch \d.*smaller lr than 1e\+20"):
        trained(some_rows(ROWS, 1), told=how_of(lr=1e20, schedule="constant", warmup=0.0))


@given(st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1), st.integers(1, 400), st.floats(1e-6, 1e-2))
def test_the_learning_rate_rises_and_falls(schedule: str, warmup: float, steps: int, lr: float) -> None:
    warm = round(warmup * steps)
    rates = [Schedule(lr, schedule, warm, steps).rate(step) for step in range(steps)]  # type: ignore[arg-type]
    assert all(0 < rate <= lr * (1 + 1e-9) for rate in rates)
    assert all(a < b for a, b in itertools.pairwise(rates[:warm]))
    after = rates[warm:]
    if schedule == "constant":
        assert all(rate == lr for rate in after)
    else:
        assert all(a > b for a, b in itertools.pairwise(after))
        assert not after or after[0] == pytest.approx(lr)


def test_a_model_whose_weights_decay_is_another_than_one_of_before(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for decay in (0.0, 0.1):
        values = {"name": "m", "source": str(tmp_path), "train": {"weight_decay": decay}}
        assert ("decay" in model_fingerprint(ModelConfig.model_validate(values))["train"]) == (decay > 0)
