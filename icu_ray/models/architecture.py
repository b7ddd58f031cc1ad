"""What a model's config.json and its class tell before a weight is read, and what one small forward tells after.

    config = read_config(folder, "my-model")        # dropout off in every part of it
    check_architecture(config, "my-model")          # builds the model without its weights
    check_forward(model, "my-model")

Refused in one line: what transformers cannot build, layers without a key/value cache (MA and EL decode from one), and
encoders, which see the tokens that they shall predict. Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError, explained

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

ATTENTIONS = (None, "eager", "sdpa")
"""Those that need no package and no kernel of their own, and take the probe's caches."""
LAYERS_WITH_CACHE = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Of transformers' names of kinds of layers, those that keep keys and values of every token, and nothing else."""


def read_config(folder: Path, source: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config of a folder: without dropout, and with an attention that can be had everywhere."""
    with explained(f"model {source}"):
        from transformers import AutoConfig

        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        without_dropout(config)
        for part in _parts(config):
            if getattr(part, "_attn_implementation", None) not in ATTENTIONS:
                part._attn_implementation = None
    return config


def without_dropout(config: PretrainedConfig) -> None:
    """Set every dropout probability of a config and its parts to 0, whatever the family calls it."""
    for part in _parts(config):
        values = part if isinstance(part, dict) else vars(part)
        for name, value in list(values.items()):
            if isinstance(name, str) and "drop" in name and isinstance(value, float):
                if isinstance(part, dict):
                    part[name] = 0.0
                else:
                    setattr(part, name, 0.0)


def _parts(config: Any) -> Iterator[Any]:
    """A config and the configs in it (text_config of a multimodal family), those written as mappings too."""
    from transformers import PretrainedConfig

    yield config
    for value in list((config if isinstance(config, dict) else vars(config)).values()):
        if isinstance(value, dict | PretrainedConfig):
            yield from _parts(value)


def check_architecture(
    config: PretrainedConfig, source: str, *, trust_remote_code: bool = False, checkpointing: bool = False
) -> PreTrainedModel:
    """Refuse what cannot be built, keeps no key/value cache, or is an encoder; takes no memory and reads no weights.

    The model, on the device "meta". checkpointing: refuse also what cannot compute activations anew in the backward
    pass.
    """
    with explained(f"model {source}"):
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            copied = copy.deepcopy(config)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(copied, trust_remote_code=trust_remote_code)  # type: ignore[no-untyped-call]
        without = _without_cache(model)
        reads_both_ways = getattr(model.config, "is_decoder", None) is False and any(
            getattr(module, "is_decoder", None) is False for module in model.modules()
        )
    if without:
        raise UserError(
            f"model {source} ({config.model_type}): has layers without a key/value cache ({without}), which MA and EL "
            "need; not supported"
        )
    if checkpointing:
        check_checkpointing(model, source)
    if reads_both_ways:
        raise UserError(_encoder(model, source))
    return model


def check_checkpointing(model: PreTrainedModel, source: str) -> None:
    """Refuse a model whose class does not say that it can compute activations anew in the backward pass."""
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"model {source} ({model.config.model_type}): its class {type(model).__name__} knows no activation "
            "checkpointing; set activation_checkpointing: false"
        )


def check_scores(config: PretrainedConfig, source: str) -> None:
    """Refuse a family whose scores are not the last hidden states times the output matrix, which losses count on."""
    told = config.get_text_config(decoder=True)
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if (value := getattr(told, name, None)) not in (None, 1):
            raise UserError(
                f"model {source} ({config.model_type}): bends or scales its scores after the output matrix "
                f"({name}={value}); not supported, but 'icu-ray probe' measures it"
            )


def _without_cache(model: PreTrainedModel) -> str:
    """Which layers keep something else than keys and values of every token, '' if none does."""
    kinds = set(getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ())
    if kinds - LAYERS_WITH_CACHE:
        return ", ".join(sorted(kinds - LAYERS_WITH_CACHE))
    if not kinds and getattr(model, "_is_stateful", False):
        return "recurrent states"
    takes_cache = "past_key_values" in inspect.signature(model.forward).parameters
    return "" if takes_cache else f"{type(model).__name__} takes no past_key_values"


def check_forward(model: PreTrainedModel, source: str) -> None:
    """Refuse a model whose scores of a token depend on later tokens or on pads before it, or which returns no cache."""
    import torch

    vocabulary = model.get_input_embeddings().weight.size(0)  # type: ignore[operator]
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % vocabulary
    with explained(f"model {source}"), torch.no_grad():
        output = model(input_ids=ids.to(model.device), use_cache=True)
        change = (output.logits[0].float() - output.logits[1].float()).abs().amax(-1)
        moved = 0.0
        if "position_ids" not in inspect.signature(model.forward).parameters:
            row = torch.nn.functional.pad(ids[:1], (3, 0)).to(model.device)
            seen = torch.tensor([[0, 0, 0, 1, 1, 1, 1]], device=model.device)
            padded = model(input_ids=row, attention_mask=seen).logits[0, -1].float()
            moved = float((padded - output.logits[0, -1].float()).abs().max())
    # Written so that NaN passes: a broken model is measured, it is no encoder.
    if bool(change[:-1].max() > 1e-3 * change[-1]):
        raise UserError(_encoder(model, source))
    if moved > 0.1 * float(change[-1]):
        raise UserError(
            f"model {source} ({model.config.model_type}): counts pads as positions and takes no others, so that its "
            "numbers would depend on the length of rows; not supported"
        )
    if getattr(output, "past_key_values", None) is None:
        raise UserError(
            f"model {source} ({model.config.model_type}): returns no key/value cache, which MA and EL need; not "
            "supported"
        )


def _encoder(model: PreTrainedModel, source: str) -> str:
    return (
        f"model {source} ({model.config.model_type}): is an encoder: its scores of a token depend on the tokens behind "
        "it; expected a causal LM"
    )
