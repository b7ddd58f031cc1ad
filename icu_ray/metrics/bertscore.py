"""BERTScore F1 between candidates and references (section IV-D2), with the encoder loaded once in a process.

bert-score's definition: greedy matching of contextual token embeddings by cosine, no idf, no baseline rescaling. The
embeddings and the matching are the package's; loading is ours, so that a local folder works and the model stays. Texts
of the call before are not embedded again: a trial's references never change, nor do most candidates at first.

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
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from icu_ray.data.encoder import load_bert

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Floats = NDArray[np.float64]
Embedded = dict[str, tuple[Tensor, Tensor]]


class _Encoder:
    """A BERT and the embeddings of the references it was last asked for."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
        self.weights = {token: float(token not in special) for token in range(len(tokenizer))}
        self._references: tuple[tuple[tuple[str, ...], int], Embedded] | None = None

    def has_tokens(self, text: str) -> bool:
        """An unlearned model does emit empty text, or marks that the encoder's tokenizer drops."""
        return bool(text.strip()) and len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) > 0

    def of_references(self, references: Sequence[str], batch_size: int) -> Embedded:
        """Embeddings of the references, made once for as long as the same ones are asked for."""
        asked = (tuple(references), batch_size)
        if self._references is None or self._references[0] != asked:
            self._references = asked, self.embed([text for text in references if self.has_tokens(text)], batch_size)
        return self._references[1]

    def embed(self, texts: Sequence[str], batch_size: int) -> Embedded:
        """(T, H) states and (T,) weights of each text.

        Batches depend on `texts` alone and not on what was asked before, so that a trial that is continued gets the
        same numbers to the last bit.
        """
        from bert_score.utils import get_bert_embedding

        embedded: Embedded = {}
        distinct = sorted(dict.fromkeys(texts), key=len)
        for begin in range(0, len(distinct), batch_size):
            batch = distinct[begin : begin + batch_size]
            states, mask, weights = get_bert_embedding(
                batch, self.model, self.tokenizer, self.weights, device=self.model.device
            )
            for text, row, tokens, row_weights in zip(batch, states, mask.sum(1).tolist(), weights, strict=True):
                # Copies: a view would keep the whole batch.
                embedded[text] = (row[:tokens].clone(), row_weights[:tokens].clone())
        return embedded


def _padded(texts: Sequence[str], embedded: Embedded) -> tuple[Tensor, Tensor, Tensor]:
    """(N, T, H) states, (N, T) mask and (N, T) weights of embedded texts, as bert-score's matching takes them."""
    states, weights = map(list, zip(*(embedded[text] for text in texts), strict=True))
    mask = pad_sequence([torch.ones(len(row), dtype=torch.bool, device=row.device) for row in states], True)
    # Padding must have a norm to be divided by; the mask takes it out of the matching.
    return pad_sequence(states, True, 2.0), mask, pad_sequence(weights, True).to(mask.device)


def bertscore(
    candidates: Sequence[str],
    references: Sequence[str],
    *,
    encoder: str,
    layer: int | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 16,
) -> tuple[Floats, Floats, Floats]:
    """(precision, recall, F1), each (N,) float64.

    encoder: hub id, folder, or 'bundled' (all-MiniLM-L6-v2, 6 layers). layer: hidden layer to take; None: the last.
    batch_size: texts in a forward, or pairs in a matching. An empty candidate or reference scores 0.
    """
    with _quiet():
        from bert_score.utils import greedy_cos_idf

    bert = _encoder(encoder, layer, str(device))
    scores = np.zeros((3, len(candidates)))
    pairs = list(zip(candidates, references, strict=True))
    filled = [i for i, (c, r) in enumerate(pairs) if bert.has_tokens(c) and bert.has_tokens(r)]
    # Every token of a text that was recited to the letter matches itself; memorised targets need no encoder.
    recited = [i for i in filled if candidates[i] == references[i]]
    scores[:, recited] = 1.0
    filled = [i for i in filled if candidates[i] != references[i]]
    if not filled:
        return scores[0], scores[1], scores[2]
    with torch.inference_mode(), _quiet():
        reference_states = bert.of_references(references, batch_size)
        candidate_states = bert.embed([candidates[i] for i in filled], batch_size)
        for begin in range(0, len(filled), batch_size):
            block = filled[begin : begin + batch_size]
            padded_references = _padded([references[i] for i in block], reference_states)
            padded_candidates = _padded([candidates[i] for i in block], candidate_states)
            for kind, values in enumerate(greedy_cos_idf(*padded_references, *padded_candidates)):
                scores[kind, block] = values.double().cpu().numpy()
    return scores[0], scores[1], scores[2]


@lru_cache(maxsize=2)
def _encoder(name: str, layer: int | None, device: str) -> _Encoder:
    model, tokenizer = load_bert(name, layer)
    return _Encoder(model.to(device).eval(), tokenizer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
