"""Models that are fine-tuned before anything is unlearned: by a worker group, once, whatever dies meanwhile.

Needs: one Ray, a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from icu_ray.config.file import resolve_config
from icu_ray.console.progress import Step
from icu_ray.data.sources import check_data, load_corpus
from icu_ray.data.tokens import tokenise
from icu_ray.data.training_texts import training_texts
from icu_ray.models.loading import load_model
from icu_ray.plan.grid import Plan, make_plan
from icu_ray.storage.store import Store
from icu_ray.sweep.prepare import prepare
from icu_ray.sweep.prepared import Prepared
from icu_ray.training.finetuning import BETAS
from icu_ray.training.trained_epochs import FILE
from icu_ray.trial.artefacts import get_artefact, model_key
from tests.support.plain_finetuning import plainly_finetuned
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer

pytestmark = pytest.mark.slow
EPOCHS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny untrained model with its tokenizer, as a user has one in a folder."""
    folder = tmp_path_factory.mktemp("base")
    tiny_model("gpt_neo", seed=0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of the tiny model's words: a forget file and a pool."""
    folder = tmp_path_factory.mktemp("texts")
    for name, count, seed in (("forget", 4, 0), ("pool", 12, 1)):
        words = torch.randint(2, 9, (count, 40), generator=torch.Generator().manual_seed(seed)).tolist()
        lines = [json.dumps({"text": " ".join(f"w{word}" for word in row)}) for row in words]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    more = json.dumps({"text": " ".join(["w9"] * 20)})
    (folder / "all.jsonl").write_text("".join((folder / f"{p}.jsonl").read_text() for p in ("pool", "forget")) + more)
    return folder


def plan_of(storage: Path, base: str, texts: Path, workers: int = 1, retrained: bool = True, **train: Any) -> Plan:
    how = {"epochs": EPOCHS, "lr": 3e-3, "batch_size": 4, **train}
    model = {"name": "tiny", "source": base, "gpus_per_worker": 0, "workers": workers, "train": how}
    model["retrained"] = retrained
    tree = {
        "name": "t",
        "storage": str(storage),
        "data": {"source": "records", "forget": str(texts / "forget.jsonl"), "pool": str(texts / "pool.jsonl")},
        "columns": {"length": 16, "prefix_start": 4, "suffix_start": 8},
        "models": [model],
        "methods": [{"name": "icu", "cells": [[0, 0]]}],
        "el": {"ngram": 2},
        "pairs": {"encoder": "bundled"},
        "filter": {"encoder": "bundled", "encoder_layer": 1},
    }
    config = resolve_config(tree, "test")
    return make_plan(config, check_data(config))


def weights(storage: Path, prepared: Prepared, gold: bool = False) -> dict[str, torch.Tensor]:
    keys = prepared.artefacts["tiny", 0].model if not gold else prepared.retrained["tiny", 0].model
    assert keys is not None
    return load_file(get_artefact(Store(str(storage / "store")), "models", keys) / "model.safetensors")


def trained_here(plan: Plan) -> dict[str, torch.Tensor]:
    """The same model's weights by a plain loop in this process."""
    config, model = plan.config, plan.config.models[0]
    assert model.source is not None and model.train is not None
    loaded, corpus = load_model(model.source), load_corpus(config)
    rows = tokenise(
        training_texts(config, model, corpus.rows),
        loaded.tokenizer,
        config.columns.value(),
        config.tokens,
        own_columns=True,
    )
    plainly_finetuned(loaded.model, rows, model.train, BETAS)
    return {name: parameter.detach() for name, parameter in loaded.model.named_parameters()}


def assert_alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=1e-4, msg=name)


def test_it_is_trained_once_and_so_is_the_gold_standard(
    ray_cluster: None, tmp_path: Path, base: str, texts: Path
) -> None:
    plan = plan_of(tmp_path, base, texts)
    prepared = prepare(plan, str(tmp_path / "store"))
    assert not prepared.failures and not prepared.not_retrained
    assert prepared.made("models") == 2
    assert not list((tmp_path / "t" / "training").iterdir())
    trained, gold = weights(tmp_path, prepared), weights(tmp_path, prepared, gold=True)
    assert_alike(trained, trained_here(plan))
    assert not any(torch.equal(trained[name], gold[name]) for name in trained)
    again = prepare(plan, str(tmp_path / "store"))
    assert again.made("models") == 0 and again.artefacts == prepared.artefacts


def test_two_workers_train_what_one_does_on_a_file_too(
    ray_cluster: None, tmp_path: Path, base: str, texts: Path
) -> None:
    plan = plan_of(tmp_path, base, texts, workers=2, retrained=False, data=str(texts / "all.jsonl"))
    prepared = prepare(plan, str(tmp_path / "store"))
    assert_alike(weights(tmp_path, prepared), trained_here(plan))
    # How many workers made it is no part of what it is.
    assert model_key(plan.config.models[0], plan.config, "c") == model_key(
        plan.config.models[0].model_copy(update={"workers": 1}), plan.config, "c"
    )


def test_workers_and_their_controller_may_die(ray_cluster: None, tmp_path: Path, base: str, texts: Path) -> None:
    """A worker is killed once, and the process that controls the group once; the weights are those of a quiet run."""
    plan = plan_of(tmp_path, base, texts, retrained=False, epochs=16, lr=1e-3)
    steps, found = list[Step](), list[Prepared]()
    thread = threading.Thread(target=lambda: found.append(prepare(plan, str(tmp_path / "store"), steps.append)))
    thread.start()
    for victim, epochs in (("RayTrainWorker", 2), ("_Controller", 6)):
        _wait_for_epoch(tmp_path, epochs, thread)
        # Of this process's own Ray alone.
        ours = psutil.Process().children(recursive=True)
        killed = [each for each in ours if any(f"ray::{victim}" in part for part in _command(each))]
        assert killed, f"no {victim} to kill"
        for each in killed:
            each.kill()
    thread.join()
    assert found and not found[0].failures
    assert any("its worker died" in step.text for step in steps)
    assert_alike(weights(tmp_path, found[0]), trained_here(plan))


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _wait_for_epoch(storage: Path, epoch: int, thread: threading.Thread) -> None:
    """Until a training has told of this epoch, and a checkpoint of it or of the one before is there."""
    while thread.is_alive():
        for events in (storage / "t" / "training").glob("*/events.jsonl"):
            told = events.read_text().splitlines()
            if len(told) >= epoch and list(events.parent.glob("checkpoint/checkpoint_2*")):
                return
        time.sleep(0.05)
    raise AssertionError("it was over before it could be disturbed")


def test_what_is_not_learnt_fails_its_trials_with_the_reason_and_no_file_is_left_half(
    ray_cluster: None, tmp_path: Path, base: str, texts: Path
) -> None:
    prepared = prepare(plan_of(tmp_path, base, texts, epochs=1, min_memorization=0.99), str(tmp_path / "store"))
    assert "not memorised after epochs=1" in prepared.failures["tiny", 0]
    assert prepared.failures["tiny", 0] == prepared.not_retrained["tiny", 0]
    assert not list((tmp_path / "store" / "models").glob(f"*/{FILE}"))
