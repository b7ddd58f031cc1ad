"""What step.py and memory.py compare with: equation (6) written plainly on whole logits and dense probabilities.

Two forwards (targets, pairs), Hugging Face logits of all rows, log_softmax, cross-entropy with the original model's
dense probabilities (the divergence without its constant, as the authors compute it), means over the active rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedModel

from icu_ray import methods
from icu_ray.config import Columns, LossConfig
from icu_ray.data.examples import TokenRows
from icu_ray.methods.base import Batch, LossTerms
from icu_ray.models.loading import fuse_activations

ALPHA, BETA = 0.5, 1.0
FORMS = ("ours", "two forwards", "plain")


@dataclass(frozen=True)
class Shape:
    """A GPT-Neo's width, layers, heads and vocabulary; tokens of a row."""

    name: str
    width: int
    layers: int
    heads: int
    vocabulary: int
    length: int


STANDIN = Shape("4 x 128, 2,048 words", 128, 4, 4, 2048, 128)
SHALLOW = Shape("2 x 768, 50,257 words", 768, 2, 12, 50257, 200)
NEO_125M = Shape("GPT-Neo 125M", 768, 12, 12, 50257, 200)


def neo_config(shape: Shape, end_of_text: int = 0) -> GPTNeoConfig:
    """A GPT-Neo of a shape, without dropout."""
    return GPTNeoConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        num_layers=shape.layers,
        num_heads=shape.heads,
        attention_types=[[["global", "local"], shape.layers // 2]],
        max_position_embeddings=2048,
        resid_dropout=0.0,
        embed_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )


def neo(shape: Shape, end_of_text: int = 0) -> GPTNeoForCausalLM:
    """A random GPT-Neo of a shape."""
    return GPTNeoForCausalLM(neo_config(shape, end_of_text))


def new_model(shape: Shape) -> PreTrainedModel:
    """A random model of a shape, as load_model would hand it on."""
    torch.manual_seed(0)
    model = neo(shape)
    fuse_activations(model)
    return model


def new_rows(shape: Shape, count: int, seed: int) -> TokenRows:
    """Random token rows."""
    ids = np.random.default_rng(seed).integers(1, shape.vocabulary, size=(count, shape.length))
    mask = np.ones_like(ids, dtype=bool)
    columns = Columns(shape.length, shape.length // 2, shape.length * 3 // 4)
    prompt = slice(columns.prefix_start, columns.suffix_start)
    names = tuple(map(str, range(count)))
    return TokenRows(names, ids, mask, ids, ids[:, prompt], mask[:, prompt], ("",) * count, columns, 0, 0)


def plain_loss(model: PreTrainedModel, batch: Batch) -> LossTerms:
    """The loss and its terms; `batch.reference` holds dense probabilities. Rows without weight run like all others."""
    assert batch.pair_ids is not None and batch.pair_labels is not None
    assert batch.reference is not None and batch.reference.probs is not None
    live = batch.row_weights != 0

    def mean_nll(log_q: Tensor, labels: Tensor) -> Tensor:
        nll = functional.nll_loss(log_q[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        return nll.view(len(labels), -1)[live].mean()

    log_q = model(input_ids=batch.target_ids, attention_mask=batch.target_mask, use_cache=False).logits.log_softmax(-1)
    forget = mean_nll(log_q, batch.target_labels)
    log_q = model(input_ids=batch.pair_ids, attention_mask=batch.pair_mask, use_cache=False).logits.log_softmax(-1)
    learn = mean_nll(log_q, batch.pair_labels)
    kl = -(batch.reference.probs * log_q).sum(-1)[live].mean()
    parts = {"forget": forget.detach(), "learn": learn.detach(), "kl": kl.detach()}
    return LossTerms(-forget + ALPHA * learn + BETA * kl, parts)


class EitherForm(nn.Module):
    """One model (and so one optimizer) whose loss is computed by the form that is set."""

    def __init__(self, model: PreTrainedModel, form: str = "ours") -> None:
        super().__init__()
        self.model = model
        self.form = form
        self._methods = {
            form: methods.get("icu", alpha=ALPHA, beta=BETA, loss=LossConfig(joint_forward=form == "ours"))
            for form in FORMS[:2]
        }

    def forward(self, batch: Batch) -> LossTerms:
        """The loss of a batch whose reference is the form's."""
        if self.form == "plain":
            return plain_loss(self.model, batch)
        return self._methods[self.form].loss(self.model, batch)
