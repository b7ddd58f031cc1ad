"""BERTScore F1 between candidates and references (section IV-D2), with the encoder loaded once in a process.

bert-score's definition: greedy matching of contextual token embeddings by cosine, no idf, no baseline rescaling. The
embeddings and the matching are the package's; loading is ours, so that a local folder works and the model stays.

    precision, recall, f1 = bertscore(candidates, references, encoder="bundled", layer=6)
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.bundled import bundled_encoder
from icu_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]


def bertscore(
    candidates: Sequence[str],
    references: Sequence[str],
    *,
    encoder: str,
    layer: int | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 64,
) -> tuple[Floats, Floats, Floats]:
    """(precision, recall, F1), each (N,) float64.

    encoder: hub id, folder, or 'bundled' (all-MiniLM-L6-v2, 6 layers). layer: hidden layer to take; None: the last.
    An empty candidate or reference scores 0.
    """
    with _quiet():
        from bert_score.utils import bert_cos_score_idf

    model, tokenizer = _encoder(encoder, layer, str(device))
    scores = np.zeros((3, len(candidates)))
    filled = [
        i
        for i, (c, r) in enumerate(zip(candidates, references, strict=True))
        if _has_tokens(tokenizer, c) and _has_tokens(tokenizer, r)
    ]
    if filled:
        weights = dict.fromkeys(range(len(tokenizer)), 1.0)
        weights[tokenizer.sep_token_id] = weights[tokenizer.cls_token_id] = 0.0
        with torch.inference_mode(), _quiet():
            found = bert_cos_score_idf(
                model,
                [references[i] for i in filled],
                [candidates[i] for i in filled],
                tokenizer,
                weights,
                device=device,
                batch_size=batch_size,
            )
        scores[:, filled] = found.double().cpu().numpy().T
    return scores[0], scores[1], scores[2]


def _has_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    # An unlearned model does emit empty text, or marks that the encoder's tokenizer drops.
    return bool(text.strip()) and len(tokenizer(text, add_special_tokens=False)["input_ids"]) > 0


@lru_cache(maxsize=2)
def _encoder(name: str, layer: int | None, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModel, AutoTokenizer

    source = str(bundled_encoder()) if name == "bundled" else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModel.from_pretrained(source)
    except OSError as error:
        raise UserError(
            f"filter.encoder: '{name}' can be loaded neither as a folder nor from the hub: {error}; "
            "give a folder, or 'bundled' for the encoder that is installed with the package"
        ) from error
    layers = len(model.encoder.layer)
    if layer is not None:
        if layer > layers:
            raise UserError(f"filter.encoder_layer: '{name}' has {layers} layers, found {layer}")
        # The layers above are not needed; the definition takes the states after `layer`.
        model.encoder.layer = model.encoder.layer[:layer]
    return model.to(device).eval(), tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
