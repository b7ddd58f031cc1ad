"""Figures of well-known models of the hub, for plans made where their config.json is not at hand.

    config = known_config("meta-llama/Llama-2-7b-chat-hf")      # as its config.json would say; None: not one of these

Models that were only trained further have the figures of what they were trained from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def known_config(source: str) -> Mapping[str, Any] | None:
    """The keys of a hub model's config.json that decide its size; None for a model that is not listed here."""
    name = source.lower()
    return _CONFIGS.get(_SAME_AS.get(name, name))


def _gpt_neo(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt_neo", "hidden_size": hidden, "num_layers": layers, "num_heads": heads}


def _opt(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "ffn_dim": 4 * hidden}
    return {"model_type": "opt", **sizes, "word_embed_proj_dim": hidden}


def _gpt2(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": hidden, "n_layer": layers, "n_head": heads}


def _pythia(hidden: int, layers: int, heads: int, vocabulary: int = 50304) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"model_type": "gpt_neox", **sizes, "intermediate_size": 4 * hidden, "vocab_size": vocabulary}


def _llama(
    hidden: int, layers: int, heads: int, keys: int, mlp: int, vocabulary: int, family: str = "llama", **more: Any
) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": keys, "intermediate_size": mlp, "vocab_size": vocabulary}
    return {"model_type": family, **sizes, **more}


_TIED: Mapping[str, Any] = {"tie_word_embeddings": True}
_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "eleutherai/gpt-neo-125m": _gpt_neo(768, 12, 12),
    "eleutherai/gpt-neo-1.3b": _gpt_neo(2048, 24, 16),
    "eleutherai/gpt-neo-2.7b": _gpt_neo(2560, 32, 20),
    "eleutherai/gpt-j-6b": {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400},
    "facebook/opt-125m": _opt(768, 12, 12),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
    "facebook/opt-6.7b": _opt(4096, 32, 32),
    "openai-community/gpt2": _gpt2(768, 12, 12),
    "openai-community/gpt2-medium": _gpt2(1024, 24, 16),
    "openai-community/gpt2-large": _gpt2(1280, 36, 20),
    "openai-community/gpt2-xl": _gpt2(1600, 48, 25),
    "eleutherai/pythia-70m": _pythia(512, 6, 8),
    "eleutherai/pythia-160m": _pythia(768, 12, 12),
    "eleutherai/pythia-410m": _pythia(1024, 24, 16),
    "eleutherai/pythia-1b": _pythia(2048, 16, 8),
    "eleutherai/pythia-1.4b": _pythia(2048, 24, 16),
    "eleutherai/pythia-2.8b": _pythia(2560, 32, 32),
    "eleutherai/pythia-6.9b": _pythia(4096, 32, 32, 50432),
    "eleutherai/pythia-12b": _pythia(5120, 36, 40, 50688),
    "meta-llama/llama-2-7b-hf": _llama(4096, 32, 32, 32, 11008, 32000),
    "meta-llama/llama-2-13b-hf": _llama(5120, 40, 40, 40, 13824, 32000),
    "meta-llama/llama-3.1-8b": _llama(4096, 32, 32, 8, 14336, 128256),
    "meta-llama/llama-3.2-1b": _llama(2048, 16, 32, 8, 8192, 128256, head_dim=64, **_TIED),
    "meta-llama/llama-3.2-3b": _llama(3072, 28, 24, 8, 8192, 128256, head_dim=128, **_TIED),
    "tinyllama/tinyllama-1.1b-intermediate-step-1431k-3t": _llama(2048, 22, 32, 4, 5632, 32000),
    "huggingfacetb/smollm2-135m": _llama(576, 30, 9, 3, 1536, 49152, **_TIED),
    "huggingfacetb/smollm2-360m": _llama(960, 32, 15, 5, 2560, 49152, **_TIED),
    "huggingfacetb/smollm2-1.7b": _llama(2048, 24, 32, 32, 8192, 49152, **_TIED),
    "mistralai/mistral-7b-v0.1": _llama(4096, 32, 32, 8, 14336, 32000, "mistral"),
    "qwen/qwen2.5-0.5b": _llama(896, 24, 14, 2, 4864, 151936, "qwen2", **_TIED),
    "qwen/qwen2.5-1.5b": _llama(1536, 28, 12, 2, 8960, 151936, "qwen2", **_TIED),
    "qwen/qwen2.5-3b": _llama(2048, 36, 16, 2, 11008, 151936, "qwen2", **_TIED),
    "qwen/qwen2.5-7b": _llama(3584, 28, 28, 4, 18944, 152064, "qwen2"),
    "google/gemma-2-2b": _llama(2304, 26, 8, 4, 9216, 256000, "gemma2", head_dim=256),
    "microsoft/phi-3.5-mini-instruct": _llama(3072, 32, 32, 32, 8192, 32064, "phi3"),
}
_MUSE = ("target", "retrain")
_SAME_AS: Mapping[str, str] = {
    "gpt2": "openai-community/gpt2",
    "smollm2": "huggingfacetb/smollm2-135m",
    "nousresearch/llama-2-7b-hf": "meta-llama/llama-2-7b-hf",
    "nousresearch/llama-2-7b-chat-hf": "meta-llama/llama-2-7b-hf",
    "meta-llama/llama-2-7b-chat-hf": "meta-llama/llama-2-7b-hf",
    "meta-llama/llama-2-13b-chat-hf": "meta-llama/llama-2-13b-hf",
    "locuslab/tofu_ft_llama2-7b": "meta-llama/llama-2-7b-hf",
    "open-unlearning/tofu_llama-2-7b-chat-hf_full": "meta-llama/llama-2-7b-hf",
    **{f"muse-bench/muse-{split}_{kind}": "meta-llama/llama-2-7b-hf" for split in ("news", "books") for kind in _MUSE},
    "meta-llama/meta-llama-3-8b": "meta-llama/llama-3.1-8b",
    "meta-llama/meta-llama-3-8b-instruct": "meta-llama/llama-3.1-8b",
    "huggingfaceh4/zephyr-7b-beta": "mistralai/mistral-7b-v0.1",
    "meta-llama/llama-3.1-8b-instruct": "meta-llama/llama-3.1-8b",
    "open-unlearning/tofu_llama-3.1-8b-instruct_full": "meta-llama/llama-3.1-8b",
    "meta-llama/llama-3.2-1b-instruct": "meta-llama/llama-3.2-1b",
    "open-unlearning/tofu_llama-3.2-1b-instruct_full": "meta-llama/llama-3.2-1b",
    "meta-llama/llama-3.2-3b-instruct": "meta-llama/llama-3.2-3b",
    "open-unlearning/tofu_llama-3.2-3b-instruct_full": "meta-llama/llama-3.2-3b",
    "tinyllama/tinyllama-1.1b-chat-v1.0": "tinyllama/tinyllama-1.1b-intermediate-step-1431k-3t",
    "mistralai/mistral-7b-instruct-v0.1": "mistralai/mistral-7b-v0.1",
    "google/gemma-2-2b-it": "google/gemma-2-2b",
    **{f"huggingfacetb/smollm2-{size}-instruct": f"huggingfacetb/smollm2-{size}" for size in ("135m", "360m", "1.7b")},
    **{f"qwen/qwen2.5-{size}-instruct": f"qwen/qwen2.5-{size}" for size in ("0.5b", "1.5b", "3b", "7b")},
    **{
        f"eleutherai/pythia-{size}-deduped": f"eleutherai/pythia-{size}"
        for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
    },
}
