"""`stop.keep=best`: which epoch's model a trial leaves, and its weights on their way through a file.

best = best_epoch(history, thresholds)          # an epoch's number
save_weights(model, file); load_weights(model, file)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.models.adapters import has_adapter
from icu_ray.storage.results import EpochRecord, Scores
from icu_ray.storage.thresholds import Thresholds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def best_epoch(history: Sequence[EpochRecord], thresholds: Thresholds) -> int:
    """Of the epochs that keep the cost limit, the one nearest to the thresholds; of equals, the cheapest.

    An epoch below the thresholds is as near as can be, and the cheapest is the one with the lowest held-out perplexity.
    Where no epoch keeps the limit it is the last. history: with epoch 0, which counts as none, first.
    """
    before, trained = history[0].scores, history[1:]
    within = [record for record in trained if _keeps_limit(before, record.scores, thresholds)]
    if not within:
        return history[-1].epoch

    def rank(record: EpochRecord) -> tuple[bool, float, float, int]:
        scores, ppl = record.scores, record.scores.ppl_heldout
        # A value that lies on its threshold is not below it.
        forgotten = thresholds.below(scores.ma, scores.el)
        return not forgotten, _above(before, scores, thresholds), math.inf if ppl is None else ppl, -record.epoch

    return min(within, key=rank).epoch


def _keeps_limit(before: Scores, scores: Scores, thresholds: Thresholds) -> bool:
    """Without a limit, or without held-out texts, every finite model does."""
    if scores.forget_loss is None:
        return False
    if thresholds.max_ppl_ratio is None or not before.ppl_heldout:
        return True
    return scores.ppl_heldout is not None and scores.ppl_heldout / before.ppl_heldout <= thresholds.max_ppl_ratio


def _above(before: Scores, scores: Scores, thresholds: Thresholds) -> float:
    """By how much MA and EL lie above their thresholds together; by rule 'or', the nearer one alone.

    EL that was left out, as `eval.el=decision` does, counts as what it was before unlearning.
    """
    if thresholds.below(scores.ma, scores.el):
        return 0.0
    el = before.el if scores.el is None else scores.el
    pairs = ((scores.ma, thresholds.ma), (el, thresholds.el))
    above = [max((1.0 if value is None else value) - limit.value, 0.0) for value, limit in pairs]
    return sum(above) if thresholds.rule == "and" else min(above)


def save_weights(model: PreTrainedModel, file: Path) -> None:
    """The weights that are trained, bit for bit; a weight that two layers share is written once."""
    from safetensors.torch import save_file, save_model

    if not has_adapter(model):
        save_model(model, str(file))
        return
    save_file({name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}, file)


def load_weights(model: PreTrainedModel, file: Path) -> None:
    """Give `model` the weights that `save_weights` wrote of one of its kind."""
    from safetensors.torch import load_file, load_model

    if not has_adapter(model):
        load_model(model, str(file))
        return
    weights = load_file(file)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(weights[name])
