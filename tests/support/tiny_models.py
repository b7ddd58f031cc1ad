"""Small random models of the three tested families, small rows for them, and a small tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from icu_ray.config import Columns
from icu_ray.data.examples import IGNORED_LABEL, TokenRows

FAMILIES = ("gpt_neo", "opt", "llama")
VOCABULARY = 67
PAD = 1
_GQA = {"num_key_value_heads": 2, "intermediate_size": 48}
_HEADS = {**_GQA, "head_dim": 8}
MORE_FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4},
    "gpt_neox": {"intermediate_size": 48},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 32},
    "falcon": {"alibi": False, "multi_query": True},
    "mistral": {**_GQA, "sliding_window": 4},
    "mixtral": {**_GQA, "num_local_experts": 4, "num_experts_per_tok": 2},
    # Its tokenizer class adds a token of its own.
    "qwen2": {**_GQA, "vocab_size": VOCABULARY + 1},
    "qwen3": _HEADS,
    "gemma": _HEADS,
    "gemma3_text": {**_HEADS, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": _GQA,
    "olmo2": _GQA,
    "smollm3": _GQA,
    "stablelm": _GQA,
}
"""Families beside FAMILIES that are tried with what makes them: shared heads, experts, sliding windows, ALiBi."""
COLUMNS = Columns(12, 4, 8)


def tiny_model(family: str, seed: int = 0, dropout: float = 0.0) -> PreTrainedModel:
    """In float32 and eval mode; weights larger than usual, so that distributions are far from flat."""
    torch.manual_seed(seed)
    if family == "gpt_neo":
        neo = GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            max_position_embeddings=32,
            initializer_range=0.3,
            attention_dropout=dropout,
            resid_dropout=dropout,
            embed_dropout=dropout,
            bos_token_id=0,
            eos_token_id=PAD,
        )
        return GPTNeoForCausalLM(neo).eval()
    if family == "opt":
        opt = OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            word_embed_proj_dim=16,
            ffn_dim=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            init_std=0.3,
            dropout=dropout,
            attention_dropout=dropout,
            pad_token_id=PAD,
        )
        return OPTForCausalLM(opt).eval()
    llama = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.3,
        attention_dropout=dropout,
        tie_word_embeddings=False,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(llama).eval()


def tiny_model_of(family: str, seed: int = 0) -> PreTrainedModel:
    """As `tiny_model`, of any of FAMILIES and MORE_FAMILIES."""
    if family in FAMILIES:
        return tiny_model(family, seed)
    torch.manual_seed(seed)
    common = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": 0, "eos_token_id": PAD, "pad_token_id": PAD, "initializer_range": 0.3}
    # Families give these other names, and take no second one.
    given = {} if {"n_layer", "n_layers"} & set(MORE_FAMILIES[family]) and family != "bloom" else common
    if family == "bloom":
        given = {"hidden_size": 32}
    config = AutoConfig.for_model(
        family, **{"vocab_size": VOCABULARY, **given, "max_position_embeddings": 32, **ids, **MORE_FAMILIES[family]}
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.eval()


def tiny_rows(count: int, seed: int, pads: bool = True) -> TokenRows:
    """Random rows of COLUMNS.length tokens; every third is a few tokens short and left padded. First tokens are not
    scored."""
    generator = np.random.default_rng(seed)
    shape = (count, COLUMNS.length)
    ids = generator.integers(2, VOCABULARY, size=shape)
    mask = np.ones(shape, dtype=bool)
    if pads:
        for row in range(0, count, 3):
            mask[row, : 1 + row % 4] = False
    ids = np.where(mask, ids, PAD).astype(np.int64)
    prompt = slice(COLUMNS.prefix_start, COLUMNS.suffix_start)
    return TokenRows(
        tuple(f"row{k}" for k in range(count)),
        ids,
        mask,
        np.where(mask & (mask.cumsum(axis=1) > 1), ids, IGNORED_LABEL).astype(np.int64),
        ids[:, prompt],
        mask[:, prompt],
        ("",) * count,
        COLUMNS,
        PAD,
        PAD,
    )


def save_byte_tokenizer(folder: Path, vocabulary: int) -> None:
    """A byte-level BPE that has merged what little it saw, as tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and then some more"] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
