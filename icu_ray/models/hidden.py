"""The seam through any causal LM: last hidden states below, the output matrix above.

    hidden = last_hidden(model, input_ids, mask)       # (B, L, H)
    hidden, states = hidden_states(model, input_ids, mask, None, layers=(7,))      # states[7]: (B, L, H) too
    weight, bias = output_head(model)                  # logits = hidden @ weight.T + bias

Losses and the frozen reference work on this seam, so that logits of a whole batch need never exist.
`check_seam` proves once for a model that its logits are that product; models that scale or cap their logits
are refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from icu_ray.data.positions import position_options
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def last_hidden(
    model: PreTrainedModel, input_ids: Tensor, mask: Tensor | None, positions: Tensor | None = None
) -> Tensor:
    """(B, L, H) states that feed the output matrix: after GPT-Neo's ln_f, OPT's project_out, Llama's norm.

    input_ids, mask: (B, L) int64. positions: (B, L) int64 as of `TokenRows.position_ids`; None: the model's own count,
    which is right where no row has left pads, and counts them too where its positions are absolute.
    """
    output = model.base_model(
        input_ids=input_ids,
        attention_mask=mask,
        use_cache=False,
        return_dict=True,
        **position_options(model.base_model, positions),
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    mask: Tensor | None,
    positions: Tensor | None = None,
    layers: Sequence[int] = (),
) -> tuple[Tensor, dict[int, Tensor]]:
    """As `last_hidden`, with the (B, L, H) output of some layers, counted from 0, of the same forward."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Any) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    known = decoder_layers(model) if layers else []
    hooks = [known[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        return last_hidden(model, input_ids, mask, positions), found
    finally:
        for each in hooks:
            each.remove()


def decoder_layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The model's layers in order: the first list of modules that has as many as its config says."""
    from torch import nn

    count = model.config.get_text_config().num_hidden_layers
    lists = (part for part in model.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == count)
    found = next(lists, None)
    if found is None:
        raise UserError(f"model {type(model).__name__}: expected a list of {count} layers, found none")
    return list(found)


def output_head(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """Output matrix (V, H) and bias (V,) or None; the parameters themselves, not copies."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head.weight, getattr(head, "bias", None)


def linear_into(out: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out (C, V) float32 = hidden (C, H) @ weight.T + bias, computed in the precision of the model; returns `out`."""
    import torch

    if hidden.dtype != out.dtype:
        return out.copy_(torch.nn.functional.linear(hidden, weight, bias))
    if bias is None:
        return torch.mm(hidden, weight.T, out=out)
    return torch.addmm(bias, hidden, weight.T, out=out)


def check_seam(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are not last_hidden @ weight.T + bias (soft-capped or scaled logits)."""
    import torch

    name = type(model).__name__
    if model.base_model is model or model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]
        raise UserError(f"model {name}: expected a causal LM with a base model and an output matrix")
    weight, bias = output_head(model)
    ids = torch.arange(1, 5, device=weight.device)[None] % weight.shape[0]
    mask = torch.ones_like(ids)
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
            product = torch.nn.functional.linear(last_hidden(model, ids, mask), weight, bias).float()
    finally:
        model.train(training)
    tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
    scale = expected.abs().max().clamp(min=1.0)
    # Written so that NaN passes: a broken model is measured, it is not an unknown architecture.
    if expected.shape != product.shape or bool((expected - product).abs().max() > tolerance * scale):
        raise UserError(
            f"model {name}: its logits are not its last hidden states times its output matrix (they are "
            "scaled or capped), which training needs; GPT-Neo, OPT, Llama, GPT-2 and Mistral models are"
        )
