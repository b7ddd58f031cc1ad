"""Parameters counted from a config.json against those of the network that transformers builds from it.

Needs: nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from icu_ray.config import LoraConfig
from icu_ray.models.adapters import attach
from icu_ray.plan.model_shapes import DEFAULTS, ModelShape, adapter_parameters, shape_of
from tests.support.tiny_models import FAMILIES, MORE_FAMILIES, tiny_model_of

COUNTED = [*FAMILIES, *(family for family in MORE_FAMILIES if family in DEFAULTS)]
HEADS = {"num_key_value_heads": 2, "intermediate_size": 48}
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 16, "n_inner": 40},
    "gptj": {"n_embd": 24, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "tie_word_embeddings": True},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "intermediate_size": 40,
    },
    "gpt_neox": {"intermediate_size": 40, "attention_bias": False, "tie_word_embeddings": True},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 24, "do_layer_norm_before": False, "enable_bias": False},
    "bloom": {"n_layer": 3, "n_head": 4},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "ffn_hidden_size": 40},
    "falcon, no sharing": {"multi_query": False, "parallel_attn": False},
    "llama": {**HEADS, "attention_bias": True, "mlp_bias": True, "head_dim": 10, "tie_word_embeddings": True},
    "mistral": {**HEADS, "head_dim": 10},
    "mixtral": {**HEADS, "num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 10},
    "qwen2": {**HEADS, "tie_word_embeddings": True},
    "qwen3": {**HEADS, "head_dim": 10, "attention_bias": True},
    "gemma": {**HEADS, "head_dim": 10},
    "gemma2": {**HEADS, "head_dim": 10},
    "gemma3_text": {**HEADS, "head_dim": 10, "layer_types": ["full_attention"] * 3},
    "phi3": HEADS,
    "olmo2": {**HEADS, "attention_bias": True},
    "smollm3": {**HEADS, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
}


def built(family: str, keys: dict[str, Any]) -> torch.nn.Module:
    config = AutoConfig.for_model(family, **keys)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def check(shape: ModelShape | None, model: torch.nn.Module) -> None:
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == shape.layers]
    assert {sum(p.numel() for p in layer.parameters()) for layer in lists[0]} == {shape.layer}
    head = model.get_output_embeddings()  # type: ignore[operator]
    assert shape.head == sum(p.numel() for p in head.parameters())


@pytest.mark.parametrize("family", COUNTED)
def test_a_saved_model_is_counted_by_its_config_json(family: str, tmp_path: Path) -> None:
    model = tiny_model_of(family)
    model.config.save_pretrained(tmp_path)  # leaves out what is the family's default
    check(shape_of(json.loads((tmp_path / "config.json").read_text())), model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_biases_heads_and_tied_matrices(variant: str) -> None:
    family = variant.partition(",")[0]
    keys = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1, **VARIANTS[variant]}
    if not {"n_layer", "n_embd", "num_layers"} & set(keys):
        keys |= {"num_hidden_layers": 3, "num_attention_heads": 4}
    if "n_embd" not in keys:
        keys["hidden_size"] = 32
    check(shape_of({"model_type": family, **keys}), built(family, keys))


@pytest.mark.parametrize("family", [name for name in DEFAULTS if name != "bloom"])
def test_what_a_config_json_leaves_out_is_transformers_default(family: str) -> None:
    check(shape_of({"model_type": family}), built(family, {}))


def test_a_family_that_is_not_counted_and_figures_that_are_none() -> None:
    assert shape_of({"model_type": "mamba", "hidden_size": 8}) is None
    assert shape_of({}) is None
    assert shape_of({"model_type": "llama", "hidden_size": "wide"}) is None
    assert shape_of({"model_type": "llama", "num_attention_heads": 0}) is None
    assert shape_of({"model_type": "gpt2", "n_layer": -1}) is None


_VALUES = st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DEFAULTS)), st.data())
def test_any_config_json_is_counted_or_not_known(family: str, data: st.DataObject) -> None:
    keys = data.draw(st.dictionaries(st.sampled_from(sorted(DEFAULTS[family])), _VALUES))
    shape = shape_of({"model_type": family, **keys})
    assert shape is None or 0 < shape.layer < shape.parameters


# OPT's tiny one has projections beside its layers, as OPT-350M alone has them.
@pytest.mark.parametrize("family", [family for family in COUNTED if family not in ("mixtral", "opt")])
def test_parameters_of_adapters_are_counted(family: str) -> None:
    model = tiny_model_of(family)
    shape = shape_of(model.config.to_dict())
    assert shape is not None
    attach(model, LoraConfig(rank=3), 0, family)
    assert adapter_parameters(shape, 3) == sum(p.numel() for p in model.parameters() if p.requires_grad)
