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
    """A tiny GPT-Neo with a tokenizer, untrained; broken: as a diverged training leaves it."""
    model = tiny_model("gpt_neo")
    model.resize_token_embeddings(320)
    if broken:
        with torch.no_grad():
            model.transformer.ln_f.weight[0] = math.nan
    model.save_pretrained(folder)
    save_byte_tokenizer(folder, 300)
    return folder


def probe(model: Path, forget: Path, *options: str) -> int:
    return main(["probe", "--model", str(model), "--forget", str(forget), "--ngram", "4", *options])


def test_a_model_of_nan_is_not_forgotten_but_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = a_model(tmp_path / "model", broken=True)
    np.save(tmp_path / "forget.npy", np.random.default_rng(0).integers(3, 300, (3, 24)))
    capsys.readouterr()  # saving a model imports DeepSpeed, which tells of its accelerator where it is the first to
    assert probe(model, tmp_path / "forget.npy", "--el-start", "12", "--json") == 1
    asked = capsys.readouterr()
    told = json.loads(asked.out)
    assert (told["n"], told["ma"], told["el4"], told["forget_loss"]) == (3, None, None, None)
    assert all(row["ma"] is row["el4"] is row["forget_loss"] is None for row in told["per_sample"])
    assert "the model's scores are not finite on 3 of 3 texts" in asked.err
    assert probe(model, tmp_path / "forget.npy", "--el-start", "12") == 1
    asked = capsys.readouterr()
    assert asked.out.splitlines()[0].split() == ["texts", "3"]
    assert "0.00" not in asked.out and "not finite" in asked.err


def test_texts_that_are_too_short_have_no_el(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, forget = a_model(tmp_path / "model"), tmp_path / "forget.jsonl"
    texts = ["lazy", "abcd", "the quick brown fox jumps over"]
    forget.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    said = "EL4 of 2 of 3 texts cannot be measured: shorter than 4 tokens after the boundary; lower --ngram"
    assert probe(model, forget, "--length", "24", "--el-start", "12", "--json") == 0
    asked = capsys.readouterr()
    told = json.loads(asked.out)
    assert said in asked.err
    assert [row["el4"] is None for row in told["per_sample"]] == [True, True, False]
    assert (told["el4"], told["el4_unmeasured"]) == (told["per_sample"][2]["el4"], 2)
    forget.write_text(json.dumps({"text": texts[1]}) + "\n")
    assert probe(model, forget, "--length", "24", "--el-start", "12") == 0
    asked = capsys.readouterr()
    assert "EL4          -\n" in asked.out
    assert "EL4 of 1 of 1 texts cannot be measured: shorter than 4 tokens after the boundary" in asked.err


def test_texts_that_are_cut_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, forget = a_model(tmp_path / "model"), tmp_path / "forget.jsonl"
    texts = [
        "the quick brown fox jumps over the lazy dog, which is @@@@@@@@@@@@@@@@@@",
        "lazy dogs sleep, and foxes do",
    ]
    forget.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert probe(model, forget, "--length", "24", "--el-start", "12", "--json") == 0
    asked = capsys.readouterr()
    assert json.loads(asked.out)["cut"] == 1
    assert "1 of 2 texts is longer than 24 tokens: row-1 (" in asked.err
    assert "only their beginning is measured; raise --length" in asked.err
