"""What config.json and class tell before weights are read: packages that are missing, no cache, encoders, dropout.

Needs: nothing.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BartForCausalLM,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    Gemma3Config,
    MptConfig,
)

from icu_ray.config import ModelConfig
from icu_ray.errors import UserError
from icu_ray.models.architecture import check_architecture, check_forward, read_config
from icu_ray.models.checking import check_models
from icu_ray.models.loading import load_model
from tests.models.test_loading import save_model
from tests.support.tiny_models import FAMILIES, VOCABULARY, tiny_model

TINY = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "good", "llama")


def changed(good: Path, folder: Path, **keys: Any) -> Path:
    shutil.copytree(good, folder)
    config = json.loads((good / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **keys}))
    return folder


UNUSABLE = {
    "bitsandbytes": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "its config.json asks for bitsandbytes 8-bit weights; give the unquantised model",
    ),
    "gptq": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "asks for gptq 4-bit weights"),
    "within": ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "asks for fp8 weights"),
    "wrong type": ({"num_hidden_layers": "two"}, "'num_hidden_layers'"),
    "no activation": ({"hidden_act": "a_function_of_tomorrow"}, "a_function_of_tomorrow"),
    "no precision": ({"dtype": "float99"}, "float99"),
    "heads do not fit": ({"hidden_size": 25, "head_dim": None}, "25"),
}


@pytest.mark.parametrize("case", list(UNUSABLE))
def test_a_config_that_cannot_be_used_is_refused_in_one_line(case: str, good: Path, tmp_path: Path) -> None:
    keys, said = UNUSABLE[case]
    folder = changed(good, tmp_path / "model", **keys)
    for refuse in (lambda: check_models([ModelConfig(name="m", source=str(folder))]), lambda: load_model(str(folder))):
        with pytest.raises(UserError) as refused:
            refuse()
        assert said in str(refused.value) and str(folder) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1


def test_activation_checkpointing_is_refused_where_the_class_knows_none(good: Path, tmp_path: Path) -> None:
    old = {"model_type": "ctrl", "n_embd": 32, "n_layer": 2, "n_head": 2, "dff": 32, "n_positions": 32}
    folder = changed(good, tmp_path / "model", **old)
    for source, refused in ((folder, True), (good, False)):
        check_models([ModelConfig(name="m", source=str(source))])
        model = ModelConfig(name="m", source=str(source), activation_checkpointing=True)
        if refused:
            with pytest.raises(UserError, match=r"\(ctrl\): its class CTRLLMHeadModel knows no activation check"):
                check_models([model])
        else:
            check_models([model])


def test_an_attention_that_needs_a_package_is_replaced(good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "model", _attn_implementation="flash_attention_2")
    check_models([ModelConfig(name="m", source=str(folder))])
    ids = torch.arange(2, 12)[None]
    torch.testing.assert_close(load_model(str(folder)).model(ids).logits, load_model(str(good)).model(ids).logits)


def test_a_dry_run_refuses_it_without_importing_torch(good: Path, tmp_path: Path) -> None:
    folder = changed(good, tmp_path / "model", num_hidden_layers="two")
    (tmp_path / "forget.jsonl").write_text('{"text": "w2 w3 w4"}\n')
    code = (
        "import sys; from icu_ray.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    asked = ["unlearn", "--model", str(folder), "--forget", str(tmp_path / "forget.jsonl")]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked, "--out", str(tmp_path / "out"), "--length", "48", "--dry-run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "num_hidden_layers" in done.stderr and len(done.stderr.splitlines()) == 1


LAYERS = {
    "mamba": ({"state_size": 8}, "linear_attention"),
    "openai-gpt": ({}, "takes no past_key_values"),
    "rwkv": ({}, "recurrent states"),
    "lfm2": ({"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2}, "conv"),
    "qwen3_next": ({"layer_types": ["linear_attention", "full_attention"]}, "linear_attention"),
    "recurrent_gemma": ({}, "linear_attention"),
    "falcon_h1": ({}, "hybrid"),
}


@pytest.mark.parametrize("family", list(LAYERS))
def test_layers_without_a_cache_are_refused_by_config_json(family: str, tmp_path: Path) -> None:
    keys, said = LAYERS[family]
    AutoConfig.for_model(family, **{**TINY, **keys}).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"layers without a key/value cache \(.*which MA and EL need; not supported"
    ) as no:
        check_architecture(read_config(tmp_path, "X"), "X")
    assert f"model X ({family})" in str(no.value) and said in str(no.value)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "mistral", "gemma2", "bart", "bloom"])
def test_models_with_a_cache_are_taken(family: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    check_architecture(read_config(tmp_path, "X"), "X")


def test_a_model_whose_positions_count_pads_is_refused() -> None:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 64}
    model = BartForCausalLM(BartConfig(**sizes, max_position_embeddings=32)).eval()
    with pytest.raises(UserError, match=r"model X \(bart\): counts pads as positions and takes no others"):
        check_forward(model, "X")
    for taken in (
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
        MptConfig(d_model=16, n_heads=2, n_layers=2, vocab_size=64),
    ):
        check_forward(AutoModelForCausalLM.from_config(taken).eval(), "X")


def test_an_encoder_is_refused() -> None:
    config = BertConfig(**TINY, intermediate_size=32)
    for check in (lambda: check_architecture(config, "X"), lambda: check_forward(BertLMHeadModel(config).eval(), "X")):
        with pytest.raises(UserError, match=r"model X \(bert\): is an encoder"):
            check()
    decoder = BertConfig(**TINY, intermediate_size=32, is_decoder=True)
    check_architecture(decoder, "X")
    check_forward(BertLMHeadModel(decoder).eval(), "X")


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_are_taken_even_when_broken(family: str) -> None:
    model = tiny_model(family)
    check_forward(model, "X")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    check_forward(model, "X")


def test_weights_that_the_config_does_not_use(good: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = changed(good, tmp_path / "cut", num_hidden_layers=1)
    with pytest.raises(
        UserError, match=r"its weights hold model\.layers\.1\..* and \d+ more, which its config\.json has"
    ):
        load_model(str(cut))
    # What older checkpoints hold beside their weights is no matter, and a head of another task is told.
    neo = save_model(tmp_path / "neo")
    weights = load_file(neo / "model.safetensors")
    weights["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 32, 32)
    weights["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(weights, neo / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "icu_ray"):
        load_model(str(neo))
        assert not [record for record in caplog.records if record.name.startswith("icu_ray")]
        save_file({**weights, "v_head.weight": torch.ones(1, 24)}, neo / "model.safetensors", metadata={"format": "pt"})
        load_model(str(neo))
    assert "its weights hold v_head.weight, which is not used" in caplog.text


def test_dropout_in_parts_of_a_config_is_off(tmp_path: Path) -> None:
    text = {**TINY, "head_dim": 16, "num_key_value_heads": 1, "attention_dropout": 0.3}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "attention_dropout": 0.2}
    Gemma3Config(text_config=text, vision_config=vision, mapping={"attn_pdrop": 0.1}).save_pretrained(tmp_path)
    config = read_config(tmp_path, "X")
    found = (config.text_config.attention_dropout, config.vision_config.attention_dropout, config.mapping)
    assert found == (0.0, 0.0, {"attn_pdrop": 0.0})
