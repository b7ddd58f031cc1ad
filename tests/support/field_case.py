"""Epochs of the field's methods on a small trial, runnable as a process of a gloo group.

python tests/support/field_case.py RANK WORLD_SIZE ZERO_STAGE RENDEZVOUS_FILE OUT_FILE

OUT_FILE.RANK gets each method's weights, losses and state after two epochs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import numpy as np
import torch
from transformers import PreTrainedModel

from icu_ray import methods
from icu_ray.data.second_answers import AnswerDraws
from icu_ray.models.reference import build_reference
from icu_ray.training.engine import set_device_environment
from icu_ray.training.records import TrialData
from tests.support.training_case import SMOOTH, case, some_rows, tokenizer, trial_settings

FIELD: Mapping[str, dict[str, Any]] = {
    "graddiff": {"alpha": 1.0},
    "wga": {"alpha": 1.0},
    "satimp": {"alpha": 0.1},
    "simnpo": {"alpha": 1.0, "method_settings": {"gamma": 1.0}},
    "npo": {"alpha": 1.0, "method_settings": {"retain": "nll"}},
    "ceu": {},
    "undial": {"alpha": 0.5},
    "pdu": {"alpha": 1.0, "method_settings": {"warmup": 0, "gamma": 0.01}},
    "pdu-epoch": {
        "method": "pdu",
        "alpha": 1.0,
        "method_settings": {"warmup": 1, "gamma": 0.01, "dual_update": "epoch", "dual_step": 0.5},
    },
    "idkdpo": {"alpha": 1.0},
    "idknll": {"alpha": 1.0},
    "altpo": {"alpha": 1.0},
    "rmu": {"alpha": 1.0, "method_settings": {"layer": 0, "train_parameters": "c_proj"}},
}
"""Of each method (or case of one), what its trial is told. GPT-Neo calls the second matrix of a layer's MLP c_proj."""


def field_data(name: str, epochs: int = 4, seed: int = 42) -> tuple[PreTrainedModel, TrialData]:
    """The case of training_case.py with two second answers a target, and all of the original that a method may need."""
    told = FIELD[name]
    method = methods.get(told.get("method", name), alpha=told.get("alpha"), settings=told.get("method_settings"))
    model, data = case()
    draws = AnswerDraws(data.targets.ids, (2,) * len(data.targets), (seed,), epochs)
    answers = some_rows(2 * len(data.targets), 9).select([2 * target + number for target, number in draws.rows])
    answers = replace(answers, ids=tuple(f"{target}:{number}" for target, number in draws.rows))
    reference = build_reference(
        model,
        data.pairs,
        targets=data.targets if method.needs_reference_nll else None,
        compared=data.targets if method.needs_target_reference else None,
        answers={"sentences": answers},
        layers=method.reference_layers,
    )
    return model, replace(data, alternates=answers, answers=draws, reference=reference.with_answers("sentences"))


def field_epochs(name: str, rank: int = 0, world_size: int = 1, **changes: object) -> dict[str, Any]:
    """Two epochs of a method."""
    from icu_ray.training.epoch import EpochTrainer

    model, data = field_data(name)
    settings = trial_settings(**({"method": name, "optim": SMOOTH, **FIELD[name]} | changes))
    trainer = EpochTrainer(settings, data, model, tokenizer(), rank, world_size)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    active = np.array([flag == "1" for flag in "1011101"])
    losses = [trainer.train(epoch, active)[0] for epoch in (1, 2)]
    state = trainer.method.state()
    trainer.close()
    parameters = {n: p.detach().clone() for n, p in model.named_parameters()}
    return {"parameters": parameters, "losses": losses, "state": state, "trained": trained}


def main() -> None:
    rank, world_size, stage = (int(text) for text in sys.argv[1:4])
    torch.set_num_threads(1)
    set_device_environment(torch.device("cpu"))
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[4]}", rank=rank, world_size=world_size)
    how: dict[str, Any] = {"zero_stage": stage, "micro_batch": 1 if world_size > 1 else None}
    torch.save({name: field_epochs(name, rank, world_size, **how) for name in FIELD}, f"{sys.argv[5]}.{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
