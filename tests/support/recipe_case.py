"""Plain torch code for a trial's epochs with AdamW's training arguments and step rules, to compare the engine's with.

parameters = plain_epochs(loss_of, settings, epochs=2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from icu_ray.data.examples import TokenRows
from icu_ray.plan.trial_settings import TrialSettings
from icu_ray.training.batches import epoch_batches
from icu_ray.training.records import TrialData
from tests.support.training_case import case

Rule = Callable[[PreTrainedModel, Tensor, Tensor | None, Callable[[], tuple[Tensor, Tensor | None]]], None]


def mean_nll(model: PreTrainedModel, rows: TokenRows, batch: np.ndarray) -> Tensor:
    """Mean over the scored tokens of a batch, computed the plain way."""
    ids, mask = torch.from_numpy(rows.input_ids[batch]), torch.from_numpy(rows.mask[batch].astype(np.int64))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    log_q = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    labels = torch.from_numpy(rows.labels[batch])[:, 1:]
    nll = -log_q[:, :-1].gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return nll[labels >= 0].mean()


def plain_rate(settings: TrialSettings, step: int, of_epoch: int, rows: int) -> float:
    """Of a step from 0: a rise over the warm-up as in transformers, then the schedule."""
    steps = of_epoch * settings.max_epochs
    warm = math.floor(settings.optim.warmup_epochs * rows / settings.batch_size)
    if step < warm:
        return settings.lr * step / warm
    left = (steps - step) / (steps - warm)
    shapes = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return settings.lr * shapes[settings.optim.schedule]


def two_groups(named: Mapping[str, Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """The weights of matrices decay, those of one dimension (of the tiny models: biases and norms) do not."""
    decayed, others = ([p for p in named.values() if (p.ndim > 1) == matrix] for matrix in (True, False))
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def plain_epochs(
    gradients: Callable[[PreTrainedModel, TrialData, np.ndarray], Iterable[Tensor]],
    settings: TrialSettings,
    epochs: int,
) -> dict[str, Tensor]:
    """Weights after some epochs. gradients: of the model's parameters, in their order, on a batch's rows."""
    model, data = case()
    optim = settings.optim
    named = dict(model.named_parameters())
    adam = torch.optim.AdamW(two_groups(named, optim.weight_decay), lr=settings.lr, betas=optim.betas, eps=optim.eps)
    rows = len(data.targets)
    everything = np.ones(rows, dtype=bool)
    of_epoch, step = -(-rows // settings.batch_size), 0
    for epoch in range(1, epochs + 1):
        told = {"seed": settings.seed, "epoch": epoch, "batch_size": settings.batch_size}
        for batch in epoch_batches(everything, **told, settings=settings.train):  # type: ignore[arg-type]
            for parameter, gradient in zip(named.values(), gradients(model, data, batch), strict=True):
                parameter.grad = gradient.clone()
            if optim.clip is not None:
                torch.nn.utils.clip_grad_norm_(named.values(), optim.clip)
            for group in adam.param_groups:
                group["lr"] = plain_rate(settings, step, of_epoch, rows)
            adam.step()
            step += 1
    return {name: parameter.detach().clone() for name, parameter in named.items()}
