"""What the folder of a model or of an adapter must hold, as far as its files tell without torch.

    check_folder(Path("my-model"), "model ./my-model")
    adapter = adapter_of(Path("my-adapter"), "model ./my-adapter")        # None for a folder that is no adapter
    adapter.base, adapter.revision                                        # the model that it belongs to

An adapter is what peft saves: adapter_config.json and adapter_model.safetensors. Of its kinds LoRA is read, as long as
it does nothing that merging it into its base would lose. A base that is written as a relative path is looked for from
the working directory, and where it is not there, from the adapter's folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icu_ray.errors import UserError
from icu_ray.models.hub import TOKENIZER_FILES, folder_here

CAUSAL_LM = "a causal LM"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGE_IT = "expected a whole model: merge it into its base (peft: merge_and_unload, then save_pretrained)"
APPLIED = frozenset(
    {
        *("r", "lora_alpha", "target_modules", "exclude_modules", "fan_in_fan_out", "use_rslora", "use_dora"),
        *("lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
    }
)
"""Of an adapter's settings those that say what it adds to its base."""
_SAY_NOTHING = frozenset(
    {
        *("peft_type", "peft_version", "base_model_name_or_path", "revision", "task_type", "auto_mapping"),
        *("inference_mode", "lora_dropout", "init_lora_weights", "megatron_core", "qalora_group_size"),
        *("runtime_config", "loftq_config", "ensure_weight_tying"),
    }
)
"""Settings of how it was trained, or of other settings alone."""
_OWN_WEIGHTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter that leave its base as it is."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter. base, revision: its base as a model's source. settings: those that say what it adds."""

    folder: Path
    base: str
    revision: str | None
    settings: Mapping[str, Any]

    @property
    def has_tokenizer(self) -> bool:
        """Whether it brings a tokenizer; else its base's is used."""
        return any((self.folder / name).is_file() for name in TOKENIZER_FILES)


def adapter_of(folder: Path, named: str) -> Adapter | None:
    """The adapter in a folder, None where there is none. UserError for one that cannot be applied."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    told = read_json(folder / ADAPTER_CONFIG, named)
    kind, base = told.get("peft_type"), told.get("base_model_name_or_path")
    if kind != "LORA":
        raise UserError(f"{named}: {ADAPTER_CONFIG} says peft_type {kind!r}; expected 'LORA'")
    if not isinstance(base, str) or not base:
        raise UserError(f"{named}: {ADAPTER_CONFIG} names no base (base_model_name_or_path); expected its model")
    if told.get("modules_to_save"):
        raise UserError(
            f"{named}: trains whole modules in addition to the adapter (modules_to_save "
            f"{told['modules_to_save']}), which is not read here; {MERGE_IT}"
        )
    told = {key: value for key, value in told.items() if value is not False and value not in (None, {}, [], "none")}
    if unknown := sorted(told.keys() - APPLIED - _SAY_NOTHING):
        raise UserError(
            f"{named}: {ADAPTER_CONFIG} asks for {unknown[0]}={told[unknown[0]]!r}, which is not applied here; "
            f"{MERGE_IT}"
        )
    if told.get("init_lora_weights") not in _OWN_WEIGHTS:
        raise UserError(
            f"{named}: {ADAPTER_CONFIG} says init_lora_weights={told['init_lora_weights']!r}, which changes the base; "
            f"{MERGE_IT}"
        )
    revision = told.get("revision")
    if not isinstance(revision, str | None):
        raise UserError(f"{named}: {ADAPTER_CONFIG} says revision {revision!r}; expected a branch, tag or commit")
    base = _found(base, folder)
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise UserError(f"{named}: its base {base} is an adapter itself; expected a whole model")
    return Adapter(folder, base, revision or None, {key: value for key, value in told.items() if key in APPLIED})


def _found(base: str, folder: Path) -> str:
    """A base as a source: as it is written, unless that is a path that is there only beside the adapter."""
    path = Path(os.path.expanduser(base))
    beside = folder / path
    return str(beside) if not path.exists() and beside.exists() else str(path) if base.startswith("~") else base


def adapter_here(source: str, revision: str | None = None) -> Adapter | None:
    """The adapter that a source is, as far as it is on this machine; None for other models."""
    folder = folder_here(source, revision)
    return None if folder is None else adapter_of(folder, f"model {source}")


def whole_model_here(source: str, revision: str | None = None) -> Path | None:
    """The folder with config.json of a source, of an adapter that of its base, as far as it is on this machine."""
    adapter = adapter_here(source, revision)
    return folder_here(source, revision) if adapter is None else folder_here(adapter.base, adapter.revision)


def check_folder(folder: Path, named: str, weights: bool = True, expected: str = CAUSAL_LM) -> None:
    """UserError unless the folder holds a config, complete weights (where asked for) and a tokenizer.

    Of an adapter: its config and weights; its base is a model of its own. named: what messages begin with: 'model ./m'.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise UserError(f"{named}: {found}; expected a folder with config.json, weights and a tokenizer")
    if weights and expected != CAUSAL_LM and (folder / ADAPTER_CONFIG).is_file():
        raise UserError(f"{named}: holds an adapter ({ADAPTER_CONFIG}), which is not applied here; {MERGE_IT}")
    if adapter_of(folder, named) is not None:
        if weights:
            _check_adapter_weights(folder, named)
        return
    if weights:
        config = folder / "config.json"
        if not config.is_file():
            raise UserError(f"{named}: no config.json in this folder; expected that of {expected}")
        described = read_json(config, named)
        if "model_type" not in described:
            raise UserError(f"{named}: {config.name} has no 'model_type'; expected that of {expected}")
        _refuse_quantised(described, named)
        _check_weights(folder, named)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UserError(
            f"{named}: no tokenizer in this folder; expected one of {', '.join(TOKENIZER_FILES)} "
            "(save it there with tokenizer.save_pretrained)"
        )


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


def _check_adapter_weights(folder: Path, named: str) -> None:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = " (adapter_model.bin is a pickle)" if (folder / "adapter_model.bin").is_file() else ""
        raise UserError(f"{named}: no {ADAPTER_WEIGHTS} in this folder{pickled}; expected the adapter's weights there")
    _check_safetensors(folder / ADAPTER_WEIGHTS, named)


def _check_weights(folder: Path, named: str) -> None:
    for name in WEIGHT_FILES:
        if (folder / f"{name}.index.json").is_file():
            files = read_json(folder / f"{name}.index.json", named).get("weight_map", {})
            if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
                raise UserError(f"{named}: {name}.index.json: expected a 'weight_map' of names and files")
            shards = sorted(set(files.values()))
            if outside := [shard for shard in shards if Path(shard).name != shard]:
                raise UserError(f"{named}: {name}.index.json names {outside[0]!r}; expected only files of this folder")
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


def read_json(path: Path, named: str) -> dict[str, Any]:
    """The object in a file; UserError where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{named}: {path.name} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{named}: {path.name} holds a {type(value).__name__}, expected an object")
    return value
