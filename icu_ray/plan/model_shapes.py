"""How large a model's parts are, by its config.json alone: parameters to the last one, and widths.

    shape = shape_of(json.loads(file.read_text()))       # None: a family that is not counted here
    shape.parameters, shape.layer                        # 6738415616, 202383360

What a config.json leaves out is transformers' default of its family. `known_models.py` has the figures of well-known
models of the hub, so that a plan can be made without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class ModelShape:
    """One causal LM. parameters: all of them. layer: those of one layer. hidden, mlp, vocabulary: widths.

    queries, keys: heads times their width, of queries and of keys (or values). head: parameters of the output matrix
    with its bias. experts: of which a token passes, 1 without any. masks: bytes of GPT-Neo's causal masks, which are
    kept beside its weights.
    """

    family: str
    parameters: int
    layer: int
    layers: int
    hidden: int
    heads: int
    queries: int
    keys: int
    mlp: int
    vocabulary: int
    head: int
    experts: int = 1
    masks: int = 0


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Of LoRA adapters on all linear layers but the output matrix; a mixture's experts get none.

    How many matrices the feed-forward part has is told by its parameters.
    """
    H, attention = shape.hidden, shape.hidden * (2 * shape.queries + 2 * shape.keys)
    matrices = 0 if shape.experts > 1 else round((shape.layer - attention) / (H * shape.mlp))
    widths = 2 * (H + shape.queries) + 2 * (H + shape.keys) + matrices * (H + shape.mlp)
    if shape.family in _ONE_MATRIX:  # for queries, keys and values; Phi-3 has another for both inputs of its gate
        widths -= 3 * H if shape.family == "phi3" else 2 * H
    return shape.layers * rank * widths


_ONE_MATRIX = ("gpt2", "gpt_neox", "bloom", "falcon", "phi3")


@dataclass(frozen=True)
class _Sizes:
    """What the families have in common; D: width of a head, of which there are A, and KV of keys."""

    H: int
    layers: int
    A: int
    KV: int
    D: int
    mlp: int
    V: int
    tied: bool


def shape_of(config: Config) -> ModelShape | None:
    """The shape that a config.json describes; None for a family that is not known here, or figures that are none."""
    family = str(config.get("model_type"))
    if family not in _FAMILIES:
        return None
    read, defaults = _FAMILIES[family], DEFAULTS[family]
    given = {_OLD_NAMES.get(family, {}).get(key, key): value for key, value in config.items()}
    try:
        return read(family, {**defaults, **given})
    except (TypeError, ValueError, ZeroDivisionError, KeyError):
        return None


def _shape(family: str, s: _Sizes, layer: int, outside: int, head_bias: int = 0, experts: int = 1) -> ModelShape:
    """outside: parameters beside the layers, the word embeddings and the output matrix."""
    if min(s.H, s.layers, s.A, s.KV, s.D, s.mlp, s.V) < 1:
        raise ValueError("a size below 1")
    words = s.V * s.H
    total = s.layers * layer + outside + words + (0 if s.tied else words) + head_bias
    head = words + head_bias
    return ModelShape(family, total, layer, s.layers, s.H, s.A, s.A * s.D, s.KV * s.D, s.mlp, s.V, head, experts)


def _sizes(c: Config, hidden: str, layers: str, heads: str, mlp: str | None) -> _Sizes:
    H, A = int(c[hidden]), int(c[heads])
    wide = int(c[mlp]) if mlp is not None and c.get(mlp) is not None else 4 * H
    return _Sizes(H, int(c[layers]), A, A, H // A, wide, int(c["vocab_size"]), bool(c["tie_word_embeddings"]))


def _mlp(s: _Sizes) -> int:
    """Two matrices with biases."""
    return s.H * s.mlp + s.mlp + s.mlp * s.H + s.H


def _gpt2(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "n_embd", "n_layer", "n_head", "n_inner")
    attention = 3 * s.H * s.H + 3 * s.H + s.H * s.H + s.H
    return _shape(family, s, 4 * s.H + attention + _mlp(s), int(c["n_positions"]) * s.H + 2 * s.H)


def _gptj(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "n_embd", "n_layer", "n_head", "n_inner")
    return _shape(family, s, 2 * s.H + 4 * s.H * s.H + _mlp(s), 2 * s.H, head_bias=s.V)


def _gpt_neo(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "hidden_size", "num_layers", "num_heads", "intermediate_size")
    layer = 4 * s.H + 4 * s.H * s.H + s.H + _mlp(s)
    positions = int(c["max_position_embeddings"])
    return replace(_shape(family, s, layer, positions * s.H + 2 * s.H), masks=s.layers * positions**2)


def _gpt_neox(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    attention = 4 * s.H * s.H + (4 * s.H if c["attention_bias"] else 0)
    return _shape(family, s, 4 * s.H + attention + _mlp(s), 2 * s.H)


def _opt(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim")
    words = int(c["word_embed_proj_dim"] or s.H)
    norm = 2 * s.H if c["layer_norm_elementwise_affine"] else 0
    bias = 5 * s.H + s.mlp if c["enable_bias"] else 0
    layer = 2 * norm + 4 * s.H * s.H + 2 * s.H * s.mlp + bias
    last = norm if c["do_layer_norm_before"] and not c["_remove_final_layer_norm"] else 0
    outside = (int(c["max_position_embeddings"]) + 2) * s.H + last + (2 * words * s.H if words != s.H else 0)
    # Words may be narrower than the layers; the output matrix is as they are.
    narrower = (words - s.H) * s.V
    shape = _shape(family, s, layer, outside + narrower * (1 if s.tied else 2))
    return replace(shape, head=s.V * words)


def _bloom(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "hidden_size", "n_layer", "n_head", None)
    layer = 4 * s.H + 4 * s.H * s.H + 4 * s.H + _mlp(s)
    return _shape(family, s, layer, 2 * s.H + 2 * s.H)


def _falcon(family: str, c: Config) -> ModelShape:
    s = _sizes(c, "hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_hidden_size")
    new, bias = bool(c["new_decoder_architecture"]), bool(c["bias"])
    keys = int(c["num_kv_heads"] or s.A) if new else 1 if c["multi_query"] else s.A
    s = _Sizes(s.H, s.layers, s.A, keys, s.D, s.mlp, s.V, s.tied)
    attention = s.H * (s.A + 2 * keys) * s.D + s.H * s.H + ((s.A + 2 * keys) * s.D + s.H if bias else 0)
    norms = 2 if not c["parallel_attn"] or (c["num_ln_in_parallel_attn"] or (2 if new else 1)) == 2 else 1
    mlp = 2 * s.H * s.mlp + (s.mlp + s.H if bias else 0)
    return _shape(family, s, 2 * s.H * norms + attention + mlp, 2 * s.H)


def _llama(family: str, c: Config) -> ModelShape:
    """Llama and the families that differ from it in biases, norms and experts alone."""
    s = _sizes(c, "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    keys = int(c["num_key_value_heads"] or s.A)
    s = _Sizes(s.H, s.layers, s.A, keys, int(c.get("head_dim") or s.D), s.mlp, s.V, s.tied)
    queries, width = s.A * s.D, s.KV * s.D
    attention = 2 * s.H * queries + 2 * s.H * width
    if family == "qwen2":
        attention += queries + 2 * width
    elif c.get("attention_bias"):
        attention += queries + 2 * width + s.H
    if family in ("qwen3", "gemma3_text"):
        attention += 2 * s.D
    elif family == "olmo2":
        attention += queries + width
    mlp = 3 * s.H * s.mlp + (2 * s.mlp + s.H if c.get("mlp_bias") else 0)
    through = 1
    if family == "mixtral":
        experts, through = int(c["num_local_experts"]), int(c["num_experts_per_tok"])
        mlp = experts * mlp + experts * s.H
    norms = 4 if family in ("gemma2", "gemma3_text") else 2
    return _shape(family, s, attention + mlp + norms * s.H, s.H, experts=through)


_FAMILIES: Mapping[str, Callable[[str, Config], ModelShape]] = {
    "gpt2": _gpt2,
    "gptj": _gptj,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
    **dict.fromkeys(
        ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3"),
        _llama,
    ),
}
_OLD_NAMES: Mapping[str, Mapping[str, str]] = {
    "bloom": {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
    "falcon": {"n_head": "num_attention_heads", "n_layer": "num_hidden_layers", "n_head_kv": "num_kv_heads"},
}


def _common(*sizes: int | None, tied: bool = False, **more: Any) -> dict[str, Any]:
    names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    names += ["intermediate_size", "vocab_size"]
    return {**dict(zip(names, sizes, strict=True)), "tie_word_embeddings": tied, **more}


_NO_BIAS = {"attention_bias": False}
DEFAULTS: Mapping[str, Config] = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None, "n_positions": 1024, "vocab_size": 50257}
    | {"tie_word_embeddings": True},
    "gptj": {"n_embd": 4096, "n_layer": 28, "n_head": 16, "n_inner": None, "vocab_size": 50400}
    | {"tie_word_embeddings": False},
    "gpt_neo": {"hidden_size": 2048, "num_layers": 24, "num_heads": 16, "intermediate_size": None}
    | {"max_position_embeddings": 2048, "vocab_size": 50257, "tie_word_embeddings": True},
    "gpt_neox": {"hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64, "intermediate_size": 24576}
    | {"vocab_size": 50432, "tie_word_embeddings": False, "attention_bias": True},
    "opt": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_dim": 3072}
    | {"max_position_embeddings": 2048, "word_embed_proj_dim": None, "vocab_size": 50272, "tie_word_embeddings": True}
    | {"do_layer_norm_before": True, "_remove_final_layer_norm": False, "enable_bias": True}
    | {"layer_norm_elementwise_affine": True},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 250880, "tie_word_embeddings": True},
    "falcon": {"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "num_kv_heads": None}
    | {"ffn_hidden_size": None, "bias": False, "multi_query": True, "new_decoder_architecture": False}
    | {"parallel_attn": True, "num_ln_in_parallel_attn": None, "vocab_size": 65024, "tie_word_embeddings": True},
    "llama": _common(4096, 32, 32, None, 11008, 32000, head_dim=None, mlp_bias=False, **_NO_BIAS),
    "mistral": _common(4096, 32, 32, 8, 14336, 32000, head_dim=None),
    "mixtral": _common(4096, 32, 32, 8, 14336, 32000, head_dim=None, num_local_experts=8, num_experts_per_tok=2),
    "qwen2": _common(4096, 32, 32, 32, 22016, 151936),
    "qwen3": _common(4096, 32, 32, 32, 22016, 151936, head_dim=128, **_NO_BIAS),
    "gemma": _common(3072, 28, 16, 16, 24576, 256000, tied=True, head_dim=256, **_NO_BIAS),
    "gemma2": _common(2304, 26, 8, 4, 9216, 256000, tied=True, head_dim=256, **_NO_BIAS),
    "gemma3_text": _common(2304, 26, 8, 4, 9216, 262208, tied=True, head_dim=256, **_NO_BIAS),
    "phi3": _common(3072, 32, 32, None, 8192, 32064),
    "olmo2": _common(4096, 32, 32, None, 11008, 50304, **_NO_BIAS),
    "smollm3": _common(2048, 36, 16, 4, 11008, 128256, tied=True, mlp_bias=False, **_NO_BIAS),
}
"""What transformers takes for a key that a config.json does not have."""
