"""The untrained models of stand-ins: a small GPT-Neo or Llama; training/standins.py trains them.

model = new_model(StandinConfig(size="small"), vocabulary=2048, length=128)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from icu_ray.config import StandinConfig

POSITIONS = 512
"""Positions a model has at least, so that longer texts of an evaluation are read (badly) and do not crash it."""


@dataclass(frozen=True)
class Architecture:
    """Width, depth (even: global and local layers alternate) and attention heads."""

    hidden: int
    layers: int
    heads: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "small": Architecture(hidden=128, layers=2, heads=4),
    "medium": Architecture(hidden=160, layers=4, heads=5),
    "large": Architecture(hidden=256, layers=6, heads=8),
}


def new_model(config: StandinConfig, vocabulary: int, length: int) -> PreTrainedModel:
    """An untrained model for rows of `length` tokens; draws its weights from torch's generator."""
    shape = ARCHITECTURES[config.size]
    if config.family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=shape.hidden,
                intermediate_size=shape.hidden * 8 // 3,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.heads,
                max_position_embeddings=max(length, POSITIONS),
                tie_word_embeddings=True,
                bos_token_id=0,
                eos_token_id=0,
                pad_token_id=0,
            )
        )
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            num_layers=shape.layers,
            num_heads=shape.heads,
            attention_types=[[["global", "local"], shape.layers // 2]],
            window_size=max(length // 2, 2),
            max_position_embeddings=max(length, POSITIONS),
            # GPT-Neo's 'gelu_new' is the same function; this one is a single kernel.
            activation_function="gelu_pytorch_tanh",
            embed_dropout=0.0,
            attention_dropout=0.0,
            resid_dropout=0.0,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
