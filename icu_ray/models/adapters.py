"""LoRA adapters within a model: put in to be trained, switched off, saved as peft saves them, merged into its weights.

    attach(model, LoraConfig(rank=8), seed=42, source="EleutherAI/gpt-neo-125m")
    with adapters_off(model): ...             # the model as it was, bit for bit
    save_adapter(model, folder, base="EleutherAI/gpt-neo-125m", revision=None)
    merge_adapter(model)                      # in place; no adapter is left in it
    save_merged(model, folder)                # the same in a folder, while the adapter is still trained

The model stays the object it was: peft exchanges its linear layers for ones that hold the old layer and two small
matrices, so that losses, probes and the engine take it as any other. Only the small matrices are left to be trained;
they have the precision of the layer they belong to. Importing this module imports neither torch nor peft.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.config import LoraConfig
from icu_ray.errors import UserError, did_you_mean, explained
from icu_ray.models.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "default"
_PREFIX = "base_model.model."
"""What peft writes before the names of a model's layers."""


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether an adapter is in the model."""
    return hasattr(model, "peft_config")


def attach(model: PreTrainedModel, lora: LoraConfig, seed: int, source: str) -> None:
    """Put a new adapter into `model`, which changes nothing of what it computes, and leave that alone to be trained.

    Its values follow from `seed` alone. source: what messages call the model. UserError for targets that it lacks.
    """
    import peft
    import torch

    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=linear_targets(model, lora, source),
        task_type="CAUSAL_LM",
    )
    # peft makes the matrices on the CPU and moves them, so that a GPU's generator has no part in it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(model, settings)


def linear_targets(model: PreTrainedModel, lora: LoraConfig, source: str) -> list[str]:
    """The layers that an adapter is put beside, by their whole names. UserError for targets that the model lacks."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if lora.targets == "all-linear":
        return [name for name, module in linear.items() if module is not head]
    found: set[str] = set()
    for target in lora.targets:
        meant = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not meant:
            known = sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
            raise UserError(
                f"model {source}: lora.targets: no linear layer is called '{target}'{did_you_mean(target, known)}; "
                f"expected of {', '.join(known)}, or all-linear"
            )
        if any(linear[name] is head for name in meant):
            raise UserError(
                f"model {source}: lora.targets: '{target}' is the output matrix, which the losses apply themselves; "
                "an adapter on it is not supported"
            )
        found.update(meant)
    return [name for name in linear if name in found]


@contextlib.contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes what it did before an adapter was put in; not for a pass that gradients go through."""
    layers = _layers(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_adapter(model: PreTrainedModel, folder: Path, base: str, revision: str | None) -> None:
    """Write the adapter as peft does into an existing folder. base, revision: of the model that it belongs to."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    tensors = {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings: Any = model.peft_config[_NAME]
    told: dict[str, Any] = settings.to_dict()
    told |= {"base_model_name_or_path": base, "revision": revision, "inference_mode": True}
    # A set's order is another in each process, and the folder is known by its content.
    told = {key: sorted(value) if isinstance(value, set) else value for key, value in told.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def merge_adapter(model: PreTrainedModel) -> None:
    """Add the adapter to the model's weights, in float32 whatever their precision, and take it out of the model."""
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        inner: Any = layer.get_base_layer()
        precision = inner.weight.dtype
        layer.float()  # type: ignore[attr-defined]
        layer.merge(adapter_names=[_NAME])
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, inner.to(precision))
    del model.peft_config
    model.requires_grad_(True)


@contextlib.contextmanager
def merged_meanwhile(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the adapter is added to the model's weights, as `merge_adapter` does, and switched off beside them.

    Outside they are as they were, bit for bit; a copy on the CPU keeps them. Nothing is done without an adapter.
    """
    import torch

    layers = _layers(model)
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().cpu().clone() for weight in weights]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                down, up = (part[_NAME].weight.float() for part in (layer.lora_A, layer.lora_B))
                change = (up @ down) * layer.scaling[_NAME]
                weight.copy_(weight.float() + (change.T if layer.fan_in_fan_out else change))
        with adapters_off(model):
            yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, kept, strict=True):
                weight.copy_(values)


def save_merged(model: PreTrainedModel, folder: Path) -> None:
    """Write the model with its adapter merged, as after `merge_adapter`, into a folder; the adapter stays in it."""
    with merged_meanwhile(model):
        state = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in model.state_dict().items()
            if ".lora_" not in name
        }
        model.save_pretrained(folder, state_dict=state)


def apply_adapter(model: PreTrainedModel, adapter: Adapter, source: str) -> None:
    """Merge an adapter's folder into its base `model`. UserError where it does not fit. source: its name."""
    with explained(f"model {source}"):
        from peft import set_peft_model_state_dict
        from peft.tuners.tuners_utils import cast_adapter_dtype
        from safetensors.torch import load_file

        _put_in(model, adapter, source)
        cast_adapter_dtype(model, _NAME)  # to float32: rounded once, when it is merged
        set_peft_model_state_dict(model, load_file(adapter.folder / ADAPTER_WEIGHTS), adapter_name=_NAME)
        merge_adapter(model)


def check_fits(model: PreTrainedModel, adapter: Adapter, source: str) -> None:
    """UserError unless the adapter's weights fit its base `model`, which may be one without weights (on "meta")."""
    with explained(f"model {source}"):
        _put_in(model, adapter, source)


def _put_in(model: PreTrainedModel, adapter: Adapter, source: str) -> None:
    """An empty adapter for the weights of a folder, after a look at their names and shapes."""
    import peft
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    settings = peft.LoraConfig(**adapter.settings, init_lora_weights=True)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore
    ends = [model.get_output_embeddings(), model.get_input_embeddings()] if tied else []  # type: ignore
    try:
        _inject(model, settings)
    except ValueError as error:  # peft's words name all layers
        raise UserError(
            f"model {source}: does not fit its base {adapter.base}, which lacks the layers that it is for, such as "
            f"{next(iter(sorted(settings.target_modules or ())), 'none')}"
        ) from error
    if any(layer.get_base_layer() is end for layer in _layers(model) for end in ends):
        raise UserError(
            f"model {source}: its adapter changes one of the embeddings and the output matrix, which are one in the "
            "base; expected a merged model"
        )
    state = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    expected = {f"{_PREFIX}{name}": tuple(tensor.shape) for name, tensor in state.items()}
    with safe_open(adapter.folder / ADAPTER_WEIGHTS, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"model {source}: {ADAPTER_WEIGHTS} does not fit its base {adapter.base}: {name.removeprefix(_PREFIX)} "
                f"is {_shape(found.get(name))}, expected {_shape(expected.get(name))}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "not there" if shape is None else " x ".join(map(str, shape))


def _inject(model: PreTrainedModel, settings: Any) -> None:
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        # GPT-2 keeps its matrices transposed, which peft notices and says of each.
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        warnings.filterwarnings("ignore", category=FutureWarning)
        meta = any(parameter.is_meta for parameter in model.parameters())
        inject_adapter_in_model(settings, model, adapter_name=_NAME, low_cpu_mem_usage=meta)


def _layers(model: PreTrainedModel) -> list[Any]:
    if not has_adapter(model):
        return []
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]
