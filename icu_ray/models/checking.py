"""Whether the models of a plan can be used, as far as can be told before anything starts.

    check_models(config.models, [("filter.encoder", "./my-bert", 9)])

Asks of each what loading would ask of it, weights apart: config.json, class, tokenizer. Only torch and transformers can
tell, which a plan does not import: where they are not there yet, a process of its own answers for all models at once
(about as long as importing them takes). A hub's model that is not in the local cache is told when it is loaded.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.config import LoraConfig, ModelConfig
from icu_ray.data.encoder import BUNDLED
from icu_ray.errors import UserError, did_you_mean
from icu_ray.models.adapters import check_fits, linear_targets
from icu_ray.models.architecture import check_architecture, check_scores, read_config
from icu_ray.models.encoders import check_encoder_class, encoder_files
from icu_ray.models.folders import adapter_here, adapter_of
from icu_ray.models.gguf_files import converted_folder, gguf_folder, is_gguf
from icu_ray.models.hub import folder_here
from icu_ray.models.loading import check_model_source, load_tokenizer
from icu_ray.models.retrained import Kind, check_no_pickles, check_same_kind, published_retrained

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_REFUSED = 2
_Parts = Sequence[tuple[str, tuple[str, ...]]]
"""Words of names of parameters that something says to train: who says so, and the words."""
_Asked = tuple[str, str, str, bool, str | None, dict[str, Any] | None, bool, _Parts]
"""A model: its source, that of the whole model (of an adapter its base), the folder of that, whether to trust its code,
the adapter's folder, the settings of an adapter to be trained, whether activations are computed anew, and what of it is
named to be trained."""


def check_models(
    models: Sequence[ModelConfig],
    encoders: Sequence[tuple[str, str, int | None]] = (),
    chats: bool = False,
    parts: Mapping[str, _Parts] | None = None,
) -> None:
    """UserError for the first model or encoder that cannot be used, and for a published retrained model that is none of
    its model.

    encoders: key, source, layer asked for. chats: whether the models read chats. parts: by model, words of names of
    parameters that a method trains.
    """
    there: list[_Asked] = []
    made: list[tuple[str, str, dict[str, Any] | None, _Parts]] = []
    pairs: list[tuple[int, int]] = []
    for model in models:
        own = (parts or {}).get(model.name, ())
        lora = None if model.lora is None else model.lora.model_dump(mode="json")
        if model.source is None:
            named = lora if lora is not None and lora["targets"] != "all-linear" else None
            if model.standin is not None and (named is not None or own):
                made.append((model.name, model.standin.family, named, own))
            continue
        found, published = _asked(model, lora, own), published_retrained(model)
        there += [] if found is None else [found]
        if published is not None:
            try:
                other = _asked(published, None, ())
            except UserError as error:
                raise UserError(f"the retrained model of {model.name}: {error}") from error
            if other is not None:
                check_no_pickles(Path(other[2]), other[0])
                pairs += [] if found is None else [(len(there) - 1, len(there))]
                there.append(other)
    read: list[tuple[str, str, str, int | None]] = []
    for key, source, layer in encoders:
        folder = encoder_files(key, source, layer)
        if folder is not None and source != BUNDLED:
            read.append((str(folder.absolute()), key, source, layer))
    if "torch" in sys.modules:
        _check(there, read, made, pairs, chats)
    elif there or read or made:
        done = subprocess.run(
            [sys.executable, "-m", __name__, json.dumps([there, read, made, pairs, chats])],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == _REFUSED:
            raise UserError(done.stdout.splitlines()[-1])
        if done.returncode == -signal.SIGKILL:
            raise UserError("looking at the models: the system ended it, as a rule for want of memory")
        if done.returncode:
            raise RuntimeError(f"checking the models ended with {done.returncode}: {done.stderr}")


def _asked(model: ModelConfig, lora: dict[str, Any] | None, parts: _Parts) -> _Asked | None:
    """What is to be asked of a model with a source; None where its files are not here."""
    assert model.source is not None
    check_model_source(model.source)
    adapter = adapter_here(model.source, model.revision)
    if adapter is not None and model.lora is not None and model.lora.save != "merged":
        raise UserError(
            f"model {model.source}: is an adapter itself; a new one is trained on the merged model, which "
            f"is in no folder that lora.save={model.lora.save} could name as its base; expected save: merged"
        )
    whole = (model.source, model.revision) if adapter is None else (adapter.base, adapter.revision)
    # A GGUF file is converted where torch is.
    folder = converted_folder(whole[0]) if is_gguf(whole[0]) else folder_here(*whole)
    if folder is None or not (is_gguf(whole[0]) or (folder / "config.json").is_file()):
        return None
    alone = None if adapter is None else str(adapter.folder.absolute())
    return (
        model.source,
        whole[0],
        str(folder.absolute()),
        model.trust_remote_code,
        alone,
        lora,
        model.activation_checkpointing,
        parts,
    )


def _check(
    there: Sequence[_Asked],
    read: Sequence[tuple[str, str, str, int | None]],
    made: Sequence[tuple[str, str, dict[str, Any] | None, _Parts]],
    pairs: Sequence[tuple[int, int]],
    chats: bool,
) -> None:
    """made: name, family, adapter and named parts of stand-ins; their layers are called as those of all models of the
    family. pairs: places in `there` of models, each with that of its published retrained model."""
    kinds = []
    for source, whole, folder, trusted, alone, lora, checkpointing, parts in there:
        if is_gguf(whole):
            gguf_folder(whole)
        tokenizer = load_tokenizer(folder if alone is None else alone, trust_remote_code=trusted)
        config = read_config(Path(folder), source, trust_remote_code=trusted)
        model = check_architecture(config, source, trust_remote_code=trusted, checkpointing=checkpointing)
        check_scores(config, source)
        _check_parts(model, source, parts)
        if lora is not None:
            linear_targets(model, LoraConfig.model_validate_json(json.dumps(lora)), source)
        if alone is not None and (adapter := adapter_of(Path(alone), f"model {source}")) is not None:
            check_fits(model, adapter, source)
        kinds.append(Kind(model, tokenizer))
    for own, other in pairs:
        check_same_kind(kinds[own], kinds[other], there[own][0], there[other][0], chats)
    for name, family, lora, parts in made:
        from transformers import AutoConfig

        model = check_architecture(AutoConfig.for_model(family), name)
        _check_parts(model, name, parts)
        if lora is not None:
            linear_targets(model, LoraConfig.model_validate_json(json.dumps(lora)), name)
    for folder, key, source, layer in read:
        check_encoder_class(Path(folder), key, source, layer)


def _check_parts(model: PreTrainedModel, source: str, parts: _Parts) -> None:
    """UserError for a word that is in no parameter's name; several in a row stand with dots between them."""
    names = [f".{name}." for name, _ in model.named_parameters()] if parts else []
    for where, words in parts:
        for word in words:
            if not any(f".{word}." in name for name in names):
                known = sorted({part for name in names for part in name.split(".")[1:-2] if not part.isdecimal()})
                raise UserError(
                    f"{where}: no parameter of model {source} is called '{word}'{did_you_mean(word, known)}; expected "
                    f"parts of names such as {', '.join(known)}"
                )


if __name__ == "__main__":
    try:
        _check(*json.loads(sys.argv[1]))
    except UserError as refused:
        sys.stdout.write(f"\n{refused}\n")
        sys.exit(_REFUSED)
