"""Any causal LM and its tokenizer, from a hub id or a local folder, ready for unlearning.

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
import math
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icu_ray.console.progress import told
from icu_ray.errors import UserError
from icu_ray.models.hub import TOKENIZER_FILES, cached_folder, commit_of, download, looks_local

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


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
    with _explained(source, "model"):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        without_dropout(config)
        with _no_progress_bar():
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
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"model {source}: its weights hold no {', '.join(missing[:3])}"
            f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}; expected all weights of "
            f"{type(model).__name__}"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise UserError(
            f"model {source}: its tokenizer knows token {highest}, but the model has only {rows} embeddings"
        )
    return LoadedModel(model, tokenizer, folder)


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer alone; pads on the left, with end-of-text for want of a pad token; cuts on the right."""
    folder = local_folder(source, revision, weights=False)
    with _explained(source, "tokenizer"):
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"tokenizer {source}: has neither a pad nor an end-of-text token; add one of them")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    tokenizer.truncation_side = "right"
    return tokenizer


def without_dropout(config: PretrainedConfig) -> None:
    """Set every dropout probability of a config to 0, whatever the family calls it."""
    for name, value in vars(config).items():
        if ("drop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)


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
    if not looks_local(source):
        _check_hub_id(source)
        return
    check_folder(Path(os.path.expanduser(source)), source)


def check_folder(folder: Path, source: str, weights: bool = True) -> None:
    """UserError unless the folder holds a config, complete weights (where asked for) and a tokenizer."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise UserError(f"model {source}: {found}; expected a folder with config.json, weights and a tokenizer")
    if weights:
        config = folder / "config.json"
        if not config.is_file():
            raise UserError(f"model {source}: no config.json in this folder; expected a saved causal LM")
        if "model_type" not in _read_json(config, source):
            raise UserError(f"model {source}: {config.name} has no 'model_type'; expected that of a causal LM")
        _check_weights(folder, source)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"model {source}: no tokenizer in this folder; expected one of {', '.join(TOKENIZER_FILES)} "
            "(save it there with tokenizer.save_pretrained)"
        )


def local_folder(source: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a source, checked; what a hub id lacks in the local cache is downloaded."""
    if looks_local(source):
        folder = Path(os.path.expanduser(source))
        check_folder(folder, source, weights)
        return folder
    _check_hub_id(source)
    commit = commit_of(source, revision)
    found = cached_folder(source, commit, weights)
    if found is not None:
        with contextlib.suppress(UserError):
            check_folder(found, source, weights)
            return found
    folder = download(source, commit, weights)
    check_folder(folder, source, weights)
    return folder


def _check_hub_id(source: str) -> None:
    name = source.rpartition("/")[2]
    if not name or any(c.isspace() for c in source) or source.endswith((".json", ".safetensors", ".bin")):
        raise UserError(f"model '{source}': expected a hub id such as EleutherAI/gpt-neo-125m or a local folder")


def _check_weights(folder: Path, source: str) -> None:
    for name in WEIGHT_FILES:
        if (folder / f"{name}.index.json").is_file():
            index = _read_json(folder / f"{name}.index.json", source)
            shards = sorted(set(index.get("weight_map", {}).values()))
            if outside := [shard for shard in shards if Path(shard).name != shard]:
                raise UserError(
                    f"model {source}: {name}.index.json names {outside[0]!r}; expected files of this folder alone"
                )
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                raise UserError(f"model {source}: {name}.index.json lacks {missing or 'any file'}")
        elif (folder / name).is_file():
            shards = [name]
        else:
            continue
        for shard in shards:
            if shard.endswith(".safetensors"):
                _check_safetensors(folder / shard, source)
        return
    raise UserError(f"model {source}: no weights here; expected {' or '.join(WEIGHT_FILES)} (or their .index.json)")


def _check_safetensors(path: Path, source: str) -> None:
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
        raise UserError(f"model {source}: {path.name} is no safetensors file, or only its beginning") from error
    if size != end or not values:
        raise UserError(f"model {source}: {path.name} has {size} bytes, but its header says {end}: copy it again")


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"model {source}: {path.name} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"model {source}: {path.name} holds a {type(value).__name__}, expected an object")
    return value


@contextlib.contextmanager
def _explained(source: str, what: str) -> Iterator[None]:
    """What transformers raises for files it cannot use becomes a UserError with the source's name."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{what} {source}: brings code of its own, which was not run; read its .py files, and if you trust "
                "them set trust_remote_code (of a sweep's model) or --trust-remote-code"
            ) from error
        first = str(error).strip().splitlines()
        raise UserError(f"{what} {source}: cannot be loaded: {first[0] if first else error!r}") from error


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
