"""Any causal LM and its tokenizer, from a hub id, a local folder or a GGUF file, ready for unlearning.

    loaded = load_model("EleutherAI/gpt-neo-125m", dtype="float32")
    loaded.model, loaded.tokenizer
    check_model_source("./my-model")          # light: before anything starts

Promises: dropout is 0 in every family (the authors force it for GPT-Neo and OPT alone); a tokenizer without a
pad token pads with its end-of-text token, on the left; weights are safetensors or a pickle read with
weights_only, and every parameter comes from the file. Whatever is missing or broken is a `UserError`. A hub
id is first looked for in the local cache. Importing this module imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icu_ray.console.progress import told
from icu_ray.data.hub_repository import wrong_id
from icu_ray.errors import UserError, explained
from icu_ray.models.architecture import check_architecture, check_forward, read_config
from icu_ray.models.gguf_files import check_gguf, gguf_folder, is_gguf, no_progress_bar
from icu_ray.models.hub import TOKENIZER_FILES, cached_folder, commit_of, download, looks_local

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
Dtype = Literal["float32", "bfloat16"]
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
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
    told("loading the model")
    tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    config = read_config(folder, source, trust_remote_code=trust_remote_code)
    check_architecture(config, source, trust_remote_code=trust_remote_code)
    with explained(f"model {source}"), no_progress_bar():
        import torch
        from transformers import AutoModelForCausalLM

        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
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
    check_folder(Path(os.path.expanduser(source)), f"model {source}")


def check_folder(folder: Path, named: str, weights: bool = True, expected: str = "a causal LM") -> None:
    """UserError unless the folder holds a config, complete weights (where asked for) and a tokenizer.

    named: what messages begin with: 'model ./m'.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{named}: {found}; expected a folder with config.json, weights and a tokenizer")
    if weights:
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{named}: holds an adapter (adapter_config.json), which is not applied here; expected a whole "
                "model: merge it into its base (peft: merge_and_unload, then save_pretrained)"
            )
        config = folder / "config.json"
        if not config.is_file():
            raise UserError(f"{named}: no config.json in this folder; expected that of {expected}")
        described = _read_json(config, named)
        if "model_type" not in described:
            raise UserError(f"{named}: {config.name} has no 'model_type'; expected that of {expected}")
        _refuse_quantised(described, named)
        _check_weights(folder, named)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{named}: no tokenizer in this folder; expected one of {', '.join(TOKENIZER_FILES)} "
            "(save it there with tokenizer.save_pretrained)"
        )


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


def _check_hub_id(source: str) -> None:
    name = source.rpartition("/")[2]
    if not name or any(c.isspace() for c in source) or source.endswith((".json", ".safetensors", ".bin")):
        raise UserError(f"model '{source}': expected a hub id such as EleutherAI/gpt-neo-125m or a local folder")
    if why := wrong_id(source):
        raise UserError(f"model '{source}': no hub id: {why}")


def _refuse_quantised(config: dict[str, Any], named: str) -> None:
    """Quantised weights cannot be trained, and most kinds ask for a package or a GPU only to be read."""
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        found = part.get("quantization_config")
        if found is None:
            continue
        kind = found if isinstance(found, dict) else {}
        bits = {"load_in_8bit": 8, "load_in_4bit": 4}
        width = next((bits[key] for key in bits if kind.get(key)), kind.get("bits"))
        words = str(kind.get("quant_method", "quantised")) + ("" if width is None else f" {width}-bit")
        raise UserError(f"{named}: its config.json asks for {words} weights; give the unquantised model")


def _check_weights(folder: Path, named: str) -> None:
    for name in WEIGHT_FILES:
        if (folder / f"{name}.index.json").is_file():
            files = _read_json(folder / f"{name}.index.json", named).get("weight_map", {})
            if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
                raise UserError(f"{named}: {name}.index.json: expected a 'weight_map' of names and files")
            shards = sorted(set(files.values()))
            if outside := [shard for shard in shards if Path(shard).name != shard]:
                raise UserError(f"{named}: {name}.index.json names {outside[0]!r}; expected files of this folder alone")
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                raise UserError(f"{named}: {name}.index.json lacks {', '.join(missing) or 'any file'}")
        elif (folder / name).is_file():
            shards = [name]
        else:
            continue
        for shard in shards:
            if shard.endswith(".safetensors"):
                _check_safetensors(folder / shard, named)
        return
    raise UserError(f"{named}: no weights here; expected {' or '.join(WEIGHT_FILES)} (or their .index.json)")


def _check_safetensors(path: Path, named: str) -> None:
    """Its header says how long the file must be: an interrupted copy is seen without reading the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 0 < length < size else b""
    try:
        entries = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        values = sum(math.prod(entry["shape"]) for entry in entries.values())
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(f"{named}: {path.name} is no safetensors file, or only its beginning") from error
    if size != end or not values:
        raise UserError(f"{named}: {path.name} has {size} bytes, but its header says {end}: copy it again")


def _read_json(path: Path, named: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{named}: {path.name} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{named}: {path.name} holds a {type(value).__name__}, expected an object")
    return value
