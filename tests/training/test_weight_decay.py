"""Which weights decay: as transformers' Trainer names them, at every ZeRO stage, of frozen parameters and adapters.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, Trainer

from icu_ray.config import OptimConfig, StopConfig
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.loop import run_trial
from icu_ray.training.records import EpochReport, TrialData
from icu_ray.training.weight_decay import decay_groups
from tests.support.field_case import FIELD, field_data
from tests.support.lora_case import lora_case
from tests.support.tiny_models import FAMILIES, MORE_FAMILIES, tiny_model_of
from tests.support.training_case import case, tokenizer, trial_settings

DECAY = 0.3
OPTIM = OptimConfig(eps=1e-3, weight_decay=DECAY)


def decayed(model: PreTrainedModel, weight_decay: float = DECAY) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = decay_groups(model, weight_decay)
    return {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}  # type: ignore[index]


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_the_names_are_those_of_transformers(family: str) -> None:
    model = tiny_model_of(family)
    theirs = set(Trainer.get_decay_parameter_names(None, model)) & {n for n, _ in model.named_parameters()}  # type: ignore[arg-type]
    assert decayed(model) == theirs
    left = {name for name, _ in model.named_parameters()} - theirs
    assert left and all("bias" in name or "norm" in name.lower() or "ln_" in name for name in left)


def test_every_trained_parameter_is_in_one_group() -> None:
    model, _ = lora_case()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert [id(p) for p in decay_groups(model, 0.0)] == [id(p) for p in trained]
    # Of an adapter all matrices decay, and there is no empty group.
    (group,) = decay_groups(model, DECAY)
    assert isinstance(group, dict) and len(group["params"]) == len(trained) and group["weight_decay"] == DECAY
    model, _ = case()
    groups = decay_groups(model, DECAY)
    found = [id(p) for group in groups for p in group["params"]]  # type: ignore[index]
    assert len(groups) == 2 and sorted(found) == sorted(id(p) for p in model.parameters())


def after(model: PreTrainedModel, data: TrialData, **changes: Any) -> dict[str, torch.Tensor]:
    """Weights after an epoch."""
    trainer = EpochTrainer(trial_settings(**changes), data, model, tokenizer(), 0, 1)
    trainer.train(1, np.ones(len(data.targets), dtype=bool))
    trainer.close()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("what", ["gpt_neo", "llama", "lora", "rmu"])
def test_one_step_decays_what_it_should_and_nothing_else(what: str, stage: int) -> None:
    """AdamW's first step moves a weight by what Adam alone does, less lr * decay * weight."""
    how: dict[str, Any] = {"method": "kumpr", "batch_size": 7, "zero_stage": stage, "lr": 1e-2}
    if what == "rmu":
        how |= {"method": "rmu", **FIELD["rmu"]}

    def made() -> tuple[PreTrainedModel, TrialData]:
        return {"lora": lora_case, "rmu": lambda: field_data("rmu")}.get(what, lambda: case(what))()  # type: ignore[no-any-return]

    model, data = made()
    names = {n for n in decayed(model) if what != "rmu" or ".h.0.mlp.c_proj." in n}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = after(model, data, **how, optim=OptimConfig(eps=1e-3))
    found = after(*made(), **how, optim=OPTIM)
    assert names
    for name, value in plain.items():
        wanted = value - 1e-2 * DECAY * before[name] if name in names else value
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6, msg=name)
        assert (name in names) == (not torch.equal(found[name], value)) or not before[name].any(), name


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "bf16"), (1, "fp32"), (2, "bf16"), (3, "fp32")])
def test_a_trial_with_two_groups_goes_on_from_its_checkpoint(stage: int, precision: str, tmp_path: Path) -> None:
    def on_epoch(report: EpochReport) -> None:
        if report.record.epoch == 1:
            report.save(tmp_path / "c")

    def run(**how: Any) -> PreTrainedModel:
        model, data = case()
        model = model.bfloat16() if precision == "bf16" else model
        stop = StopConfig(rule="epochs", ma=0.0)
        told = {"method": "graddiff", "zero_stage": stage, "precision": precision, "max_epochs": 2, "optim": OPTIM}
        run_trial(trial_settings(**told, stop=stop), data, model, tokenizer(), **how)
        return model

    whole = run(on_epoch=on_epoch)
    again = run(resume_from=tmp_path / "c")
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=0, atol=0)
