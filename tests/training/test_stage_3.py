"""ZeRO stage 3: a trial whose weights are divided among its workers comes to what one with whole weights does.

Two workers measure other rows, of other lengths, by themselves.

Needs: nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from icu_ray.models.reference import build_reference
from icu_ray.training import engine, partitioned
from icu_ray.training.best_epoch import load_weights, save_weights
from icu_ray.training.checkpoints import STATE_FILE
from icu_ray.training.engine import WEIGHTS_FILE
from icu_ray.training.epoch import EpochTrainer
from icu_ray.training.records import TrialData
from tests.support.stage3_case import EPOCHS, divide_everything, recomputed, trial
from tests.support.training_case import SMOOTH, case, one_epoch, tokenizer, trial_settings
from tests.support.worker_processes import worker_processes

Found = tuple[Path, list[dict[str, dict[str, Any]]]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The folder of two workers, and what each came to."""
    folder = tmp_path_factory.mktemp("stage-3")
    out = folder / "out.pt"
    given = ["2", str(folder / "meet"), str(out), str(folder)]
    return folder, worker_processes("tests/support/stage3_case.py", 2, *given, out=out)


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is divided in this process too."""
    for module, name in ((engine, "deepspeed_config"), (partitioned, "frozen_config")):
        monkeypatch.setattr(module, name, getattr(module, name))
    divide_everything()


def assert_alike(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name, wanted in theirs["parameters"].items():
        torch.testing.assert_close(mine["parameters"][name], wanted, rtol=1e-4, atol=1e-5, msg=name)
    for each, other in zip(mine["losses"], theirs["losses"], strict=True):
        assert each == pytest.approx(other, rel=1e-4, abs=1e-6)
    for each, other in zip(mine["scores"], theirs["scores"], strict=True):
        assert each == pytest.approx(other, rel=1e-4)
    assert mine["came_back"] == theirs["came_back"] and mine["came_back"][1] is not None
    assert mine["said"] == theirs["said"] and mine["kept"] == theirs["kept"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["whole", "continued", "best", "recomputed", "checkpointing"])
def test_two_workers_at_stage_3_come_to_what_stage_0_does(what: str, two: Found) -> None:
    _, (first, second) = two
    assert_alike(first[f"3 {what}"], first[f"0 {what}"])
    assert_alike(second[f"3 {what}"], first[f"3 {what}"])
    assert first["3 best"]["kept"] == 2 and first["3 whole"]["kept"] is None
    assert len(first[f"3 {what}"]["losses"]) == EPOCHS + 1


@pytest.mark.slow
def test_a_continued_trial_ends_with_the_numbers_of_one_that_never_was_interrupted(two: Found) -> None:
    for found in two[1]:
        whole, continued = found["3 whole"], found["3 continued"]
        assert continued["notes"] == [[]] * (EPOCHS + 1)
        assert continued["losses"] == whole["losses"] and continued["said"] == whole["said"]
        for name, parameter in whole["parameters"].items():
            torch.testing.assert_close(continued["parameters"][name], parameter, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_the_saved_model_is_whole(two: Found) -> None:
    folder, (found, _) = two
    model = AutoModelForCausalLM.from_pretrained(folder / "3" / "s" / "trials" / "t" / "model")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, found["3 whole"]["parameters"][name]), name
    # So is the one after epoch 1, which was saved while each rank held a part.
    first = AutoModelForCausalLM.from_pretrained(folder / "3" / "s" / "trials" / "t" / "epochs" / "1")
    start = _weights(folder / "stage-3", 3)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, start[f"model.{name}"]), name


@pytest.mark.slow
@pytest.mark.parametrize(("written", "here"), [(3, 3), (3, 0), (3, 2), (0, 3)])
def test_one_worker_goes_on_with_the_weights_of_two(
    written: int, here: int, two: Found, tmp_path: Path, divided: None
) -> None:
    """At another number of workers or another stage, the optimizer starts anew, and the trial says so."""
    folder = two[0] / f"stage-{written}"
    found = trial(0, 1, resume_from=folder, zero_stage=here)
    (note,) = found["notes"][2]
    if written == here:
        assert note.startswith("continued on 1 workers from a checkpoint of 2: weights taken over, optimizer")
    else:
        assert f"1 workers at zero_stage={here} from a checkpoint of 2 at zero_stage={written}: weights" in note
    # A plain trial that begins with these weights, from the second epoch on.
    model, data = case(count=7)
    start = _weights(folder, written)
    trainer = EpochTrainer(trial_settings(micro_batch=1), data, model, tokenizer(), 0, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(start[f"model.{name}"])
    losses, _ = trainer.train(2, np.ones(7, dtype=bool))
    trainer.close()
    assert found["losses"][2] == pytest.approx(losses, rel=1e-4)


def _weights(folder: Path, stage: int) -> dict[str, torch.Tensor]:
    if stage == 3:
        from safetensors.torch import load_file

        return load_file(folder / WEIGHTS_FILE)
    kept = torch.load(folder / "state" / "mp_rank_00_model_states.pt", weights_only=False)
    found: dict[str, torch.Tensor] = kept["module"]
    return found


def test_a_checkpoint_of_stage_3_names_its_whole_weights(tmp_path: Path, divided: None) -> None:
    trial(0, 1, save_to=tmp_path / "c", max_epochs=1, zero_stage=3)
    assert json.loads((tmp_path / "c" / STATE_FILE).read_text())["zero_stage"] == 3
    assert WEIGHTS_FILE in json.loads((tmp_path / "c" / "manifest.json").read_text())


def trainer_of(drawn: tuple[PreTrainedModel, TrialData], **changes: object) -> EpochTrainer:
    model, data = drawn
    return EpochTrainer(trial_settings(optim=SMOOTH, zero_stage=3, **changes), data, model, tokenizer(), 0, 1)


def test_weights_are_away_while_training_and_whole_while_measuring(divided: None) -> None:
    model, data = drawn = recomputed()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    assert data.reference is not None and data.reference.model is not None
    frozen = data.reference.model
    trainer = trainer_of(drawn)
    for epoch in (1, 2):
        assert [p.numel() for p in model.parameters()] == [0] * len(shapes)
        assert not any(p.numel() for p in frozen.base_model.parameters())
        trainer.train(epoch, np.ones(7, dtype=bool))
        with trainer.engine.whole_model():
            assert {name: p.shape for name, p in model.named_parameters()} == shapes
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        trainer.validate()
    trainer.close()
    assert {name: p.shape for name, p in model.named_parameters()} == shapes


def test_afterwards_nothing_of_deepspeed_is_left(tmp_path: Path, divided: None) -> None:
    """A plain model: its tied weights are one, it trains, and it takes weights from a file."""
    model, data = case()
    trainer = trainer_of((model, data))
    trainer.train(1, np.ones(7, dtype=bool))
    with trainer.engine.whole_model():
        torch.save({name: p.clone() for name, p in model.named_parameters()}, tmp_path / "inside.pt")
    trainer.close()
    inside = torch.load(tmp_path / "inside.pt", weights_only=True)
    assert all(torch.equal(inside[name], p) for name, p in model.named_parameters())
    assert not any(hasattr(p, "ds_id") for p in model.parameters())
    assert all(type(p) is torch.nn.Parameter and p.requires_grad for p in model.parameters())
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    other, _ = case()
    save_weights(model, tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    ids = torch.from_numpy(data.targets.input_ids)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_frozen_weights_stay_as_they_are_and_the_others_train_as_at_stage_0(tmp_path: Path, divided: None) -> None:
    found = {}
    for stage in (0, 3):
        model, data = case()
        start = [p.detach().clone() for p in model.base_model.h[0].parameters()]  # type: ignore[union-attr,index]
        model.base_model.h[0].requires_grad_(False)  # type: ignore[union-attr,index,operator]
        found[stage] = trial(0, 1, (model, data), save_to=tmp_path / str(stage), zero_stage=stage)
        layer = list(model.base_model.h[0].parameters())  # type: ignore[union-attr,index]
        assert all(torch.equal(p, was) and not p.requires_grad for p, was in zip(layer, start, strict=True))
    assert_alike(found[3], found[0])
    again, data = case()
    again.base_model.h[0].requires_grad_(False)  # type: ignore[union-attr,index,operator]
    continued = trial(0, 1, (again, data), resume_from=tmp_path / "3", zero_stage=3)
    assert continued["notes"][2] == []
    assert_alike(continued, found[3])


@pytest.mark.parametrize(
    ("family", "method"),
    [*(("gpt_neo", method) for method in ("npo", "dpo", "llmu", "kl", "kumpr")), ("opt", "icu"), ("llama", "npo")],
)
def test_each_family_and_kind_of_loss_trains_as_at_stage_0(family: str, method: str, divided: None) -> None:
    """Some losses read the output matrix a second time, in the backward pass."""
    found = {}
    for stage in (0, 3):
        model, data = case(family)
        assert data.pairs is not None
        reference = build_reference(model, data.pairs, targets=data.targets)
        drawn = (model, replace(data, reference=reference))
        found[stage] = one_epoch(np.ones(7, dtype=bool), drawn=drawn, zero_stage=stage, method=method)
    assert found[3]["losses"] == pytest.approx(found[0]["losses"], rel=1e-5)
    for name, wanted in found[0]["parameters"].items():
        torch.testing.assert_close(found[3]["parameters"][name], wanted, rtol=1e-4, atol=1e-6, msg=name)
