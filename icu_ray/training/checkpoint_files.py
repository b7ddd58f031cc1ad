"""What DeepSpeed's checkpoint files hold and how they are read: tensors and plain values, without running code.

inner.checkpoint_engine.load = load_without_code
module.register_state_dict_post_hook(leave_out_frozen)      # of a model with an adapter, the adapter alone
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch import nn

from icu_ray.errors import UserError


def load_without_code(path: str, map_location: Any = None) -> Any:
    """In place of DeepSpeed's own reading of a file, which unpickles whatever it names and so runs it.

    torch's weights_only unpickler makes tensors and plain containers, and here the three plain classes that ZeRO's
    optimizer states hold; of anything else it calls nothing.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"checkpoint {path}: is damaged, or holds more than tensors and plain values, as no checkpoint of a trial "
            "does; it was not loaded. Remove the trial's checkpoint folder to start it again"
        ) from error


def pickle_stages_by_value() -> None:
    """Have ZeRO's stage written as its number.

    Early releases of Python 3.11 (Debian 12's is one) pickle a member of an enumeration as a call of `getattr`, which
    no reading without code accepts: what they save could not be loaded, on any Python.
    """
    from deepspeed.runtime.zero.config import ZeroStageEnum

    ZeroStageEnum.__reduce_ex__ = lambda stage, protocol: (ZeroStageEnum, (stage.value,))


def frozen_names(module: nn.Module) -> frozenset[str]:
    """Every name of every parameter that is not trained; a tied one has two."""
    found = module.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in found if not parameter.requires_grad)


def leave_out_frozen(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in frozen_names(module):
        state.pop(prefix + name, None)


def load_trained(src: dict[str, Any], dst: nn.Module) -> None:
    """Load the state of a module without what is frozen, of which all the rest must be there and nothing else."""
    frozen = frozen_names(dst)
    found = dst.load_state_dict(src, strict=False)
    wrong = [*found.unexpected_keys, *(name for name in found.missing_keys if name not in frozen)]
    if wrong:
        raise UserError(
            f"checkpoint: is of another model or adapter ({wrong[0]}); remove the trial's checkpoint folder to start "
            "it again"
        )
