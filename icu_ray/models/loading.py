"""Any causal LM and its tokenizer, from a hub id, a local folder, an adapter or a GGUF file, ready for unlearning.

    loaded = load_model("EleutherAI/gpt-neo-125m", dtype="float32")
    loaded.model, loaded.tokenizer
    check_model_source("./my-model")          # light: before anything starts

Promises: dropout is 0 in every family (the authors force it for GPT-Neo and OPT alone); a tokenizer without a
pad token pads with its end-of-text token, on the left; weights are safetensors or a pickle read with
weights_only, and every parameter comes from the file; an adapter is merged into its base. Whatever is missing
or broken is a `UserError`. A hub id is first looked for in the local cache. Importing this module imports
neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icu_ray.console.progress import told
from icu_ray.data.hub_repository import wrong_id
from icu_ray.errors import UserError, explained
from icu_ray.models.adapters import apply_adapter
from icu_ray.models.architecture import check_architecture, check_forward, read_config
from icu_ray.models.folders import Adapter, adapter_of, check_folder
from icu_ray.models.gguf_files import check_gguf, gguf_folder, is_gguf, no_progress_bar
from icu_ray.models.hub import cached_folder, commit_of, download, looks_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
Dtype = Literal["float32", "bfloat16"]
OLD_BUFFERS = re.compile(r"(?:attn|attention)\.(?:masked_bias|bias|causal_mask)$|(?:inv_freq|position_ids)$")
"""Constants that checkpoints of GPT-Neo, GPT-2, GPT-J and others once held beside their weights."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal LM in eval mode, its tokenizer, and the folder both were read from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path


def load_model(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False, dtype: Dtype = "float32"
) -> LoadedModel:
    """The model with its weights in `dtype` on the CPU, dropout off, and its tokenizer."""
    folder = local_folder(source, revision)
    whole, adapter = with_base(folder, source)
    told("loading the model")
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    config = read_config(whole, source, trust_remote_code=trust_remote_code)
    check_architecture(config, source, trust_remote_code=trust_remote_code)
    with explained(f"model {source}"), no_progress_bar():
        import torch
        from transformers import AutoModelForCausalLM

        loaded: Any = AutoModelForCausalLM.from_pretrained(
            whole,
            config=config,
            dtype={"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype],
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            weights_only=True,
        )
        model, report = loaded
    fuse_activations(model)
    if report["missing_keys"]:
        raise UserError(
            f"model {source}: its weights hold no {_some(report['missing_keys'])}; expected all weights of "
            f"{type(model).__name__}"
        )
    _check_unused(model, report["unexpected_keys"], source)
    if adapter is not None:
        apply_adapter(model, adapter, source)
    check_forward(model, source)
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise UserError(
            f"model {source}: its tokenizer knows token {highest}, but the model has only {rows} embeddings"
        )
    return LoadedModel(model, tokenizer, folder)


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def _check_unused(model: PreTrainedModel, unexpected: Iterable[str], source: str) -> None:
    """Refuse weights of the network itself that the config has no place for; others (a value head) are only told."""
    names = [name for name in unexpected if not OLD_BUFFERS.search(name)]
    prefix = f"{model.base_model_prefix}."
    within = [n for n in names if n.startswith(prefix) or hasattr(model.base_model, n.partition(".")[0])]
    if within:
        raise UserError(
            f"model {source}: its weights hold {_some(within)}, which its config.json has no place for; expected the "
            f"config.json that {type(model).__name__} was saved with"
        )
    if names:
        log.warning("model %s: its weights hold %s, which is not used", source, _some(names))


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer alone; pads on the left, with end-of-text for want of a pad token; cuts on the right."""
    folder = local_folder(source, revision, weights=False)
    adapter = adapter_of(folder, f"model {source}")
    if adapter is not None and not adapter.has_tokenizer:
        folder, _ = with_base(folder, source, weights=False)
    with explained(f"tokenizer {source}"):
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"tokenizer {source}: has neither a pad nor an end-of-text token; add one of them")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.truncation_side = "right"
    return tokenizer


def fuse_activations(model: PreTrainedModel) -> None:
    """Compute "gelu_new" (GPT-Neo, GPT-2) by torch's one kernel in place of eight: same values to 1e-6.

    Eight kernels keep six (tokens, 4 x width) tensors a layer for the backward pass and took 18 % of a step.
    """
    from torch import nn
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))


def check_model_source(source: str) -> None:
    """Refuse what can be seen to be no model without loading it; a hub id is only checked for its form."""
    if is_gguf(source):
        check_gguf(source)
        return
    if not looks_local(source):
        _check_hub_id(source)
        return
    folder = Path(os.path.expanduser(source))
    check_folder(folder, f"model {source}")
    if (adapter := adapter_of(folder, f"model {source}")) is not None:
        with _of_base(source):
            check_model_source(adapter.base)


def local_folder(source: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a source, checked; what a hub id lacks in the local cache is downloaded."""
    if looks_local(source):
        folder = gguf_folder(source) if is_gguf(source) else Path(os.path.expanduser(source))
        check_folder(folder, f"model {source}", weights)
        return folder
    _check_hub_id(source)
    commit = commit_of(source, revision)
    found = cached_folder(source, commit, weights)
    if found is not None:
        with contextlib.suppress(UserError):
            check_folder(found, f"model {source}", weights)
            return found
    folder = download(source, commit, weights)
    check_folder(folder, f"model {source}", weights)
    return folder


def with_base(folder: Path, source: str, *, weights: bool = True) -> tuple[Path, Adapter | None]:
    """The folder of the whole model that `folder` means: an adapter's base, with the adapter; any other itself."""
    adapter = adapter_of(folder, f"model {source}")
    if adapter is None:
        return folder, None
    with _of_base(source):
        base = local_folder(adapter.base, adapter.revision, weights=weights)
    if adapter_of(base, f"model {source}: its base") is not None:
        raise UserError(f"model {source}: its base {adapter.base} is an adapter itself; expected a whole model")
    return base, adapter


@contextlib.contextmanager
def _of_base(source: str) -> Iterator[None]:
    """What is wrong inside is wrong with the base of the adapter `source`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"model {source}: the base that its adapter_config.json names: {error}") from error


def _check_hub_id(source: str) -> None:
    name = source.rpartition("/")[2]
    if not name or any(c.isspace() for c in source) or source.endswith((".json", ".safetensors", ".bin")):
        raise UserError(f"model '{source}': expected a hub id such as EleutherAI/gpt-neo-125m or a local folder")
    if why := wrong_id(source):
        raise UserError(f"model '{source}': no hub id: {why}")
