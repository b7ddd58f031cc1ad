"""Activation checkpointing: layers run twice a step, the numbers stay, and measurements decode from a cache as ever.

Needs: nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CTRLConfig, CTRLLMHeadModel

from icu_ray.errors import UserError
from icu_ray.models.reference import build_reference
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.records import TrialData
from tests.support.tiny_models import FAMILIES
from tests.support.training_case import SMOOTH, case, some_rows, tokenizer, trial_settings

ROWS, STEPS = 12, 3


def three_steps(family: str, stage: int, checkpointing: bool) -> dict[str, Any]:
    """Losses, parameters and measurement after three steps, and how often the first layer ran in each part."""
    model, _ = case(family, count=ROWS)
    targets, pairs = some_rows(ROWS, 1), some_rows(ROWS, 2)
    data = TrialData(targets, pairs, None, build_reference(model, pairs))
    settings = trial_settings(optim=SMOOTH, zero_stage=stage, activation_checkpointing=checkpointing)
    trainer = EpochTrainer(settings, data, model, tokenizer(), 0, 1)
    layer = next(each for each in model.modules() if isinstance(each, torch.nn.ModuleList))[0]
    runs: list[bool] = []
    # A weight's own module runs again where its layer does.
    norm = next(each for each in layer.modules() if "norm" in type(each).__name__.lower())
    norm.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    losses, steps = trainer.train(1, np.ones(ROWS, dtype=bool))
    assert steps == STEPS
    trained = len(runs)
    runs.clear()
    measured = trainer.validate()
    trainer.close()
    return {
        "losses": losses,
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "scores": measured.scores,
        "said": measured.candidates,
        "trained": trained,
        "measured": len(runs),
    }


@pytest.mark.parametrize(("family", "stage"), [*((family, 0) for family in FAMILIES), ("llama", 2), ("gpt_neo", 3)])
def test_three_steps_come_to_the_same(family: str, stage: int) -> None:
    kept, anew = (three_steps(family, stage, checkpointing) for checkpointing in (False, True))
    assert anew["losses"] == pytest.approx(kept["losses"], rel=1e-6)
    for name, parameter in kept["parameters"].items():
        torch.testing.assert_close(anew["parameters"][name], parameter, rtol=1e-5, atol=1e-7)
    assert anew["said"] == kept["said"]
    assert (anew["scores"].ma, anew["scores"].el) == (kept["scores"].ma, kept["scores"].el)
    assert (kept["trained"], anew["trained"]) == (STEPS, 2 * STEPS)
    assert anew["measured"] == kept["measured"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_is_filled_while_measuring(family: str) -> None:
    model, data = case(family)
    trainer = EpochTrainer(trial_settings(activation_checkpointing=True), data, model, tokenizer(), 0, 1)
    trainer.train(1, np.ones(7, dtype=bool))
    assert model.is_gradient_checkpointing
    model.train(False)
    with torch.no_grad():
        output = model(input_ids=torch.from_numpy(data.targets.input_ids), use_cache=True)
    assert output.past_key_values.get_seq_length() == data.targets.input_ids.shape[1]
    trainer.close()
    assert not model.is_gradient_checkpointing
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_class_that_knows_none_is_refused() -> None:
    config = CTRLConfig(vocab_size=67, n_positions=32, n_embd=32, dff=32, n_layer=1, n_head=2)
    _, data = case()
    with pytest.raises(UserError, match=r"\(ctrl\): its class CTRLLMHeadModel knows no activation checkpointing; set"):
        EpochTrainer(trial_settings(activation_checkpointing=True), data, CTRLLMHeadModel(config), tokenizer(), 0, 1)
