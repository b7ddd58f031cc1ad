"""`icu-ray probe` on what it cannot measure: it says so, and gives no number that reads as forgotten.

Needs: nothing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from icu_ray.cli.main import main
from tests.support.tiny_models import save_byte_tokenizer, tiny_model


def a_model(folder: Path, broken: bool = False) -> Path:
    """A tiny Llama with a tokenizer, untrained; broken: as a diverged training leaves it."""
    model = tiny_model("llama")
    model.resize_token_embeddings(320)
    if broken:
        with torch.no_grad():
            model.model.norm.weight[0] = math.nan
    model.save_pretrained(folder)
    save_byte_tokenizer(folder, 300)
    return folder


def probe(model: Path, forget: Path, *options: str) -> int:
    return main(["probe", "--model", str(model), "--forget", str(forget), "--ngram", "4", *options])


def test_a_model_of_nan_is_not_forgotten_but_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = a_model(tmp_path / "model", broken=True)
    np.save(tmp_path / "forget.npy", np.random.default_rng(0).integers(3, 300, (3, 24)))
    assert probe(model, tmp_path / "forget.npy", "--el-start", "12", "--json") == 1
    asked = capsys.readouterr()
    told = json.loads(asked.out)
    assert (told["n"], told["ma"], told["el4"], told["forget_loss"]) == (3, None, None, None)
    assert all(row["ma"] is row["el4"] is row["forget_loss"] is None for row in told["per_sample"])
    assert "the model's scores are not finite on 3 of 3 texts" in asked.err
    assert probe(model, tmp_path / "forget.npy", "--el-start", "12") == 1
    asked = capsys.readouterr()
    assert "0.00" not in asked.out and "not finite" in asked.err
