"""Fine-tuning by a plain loop of PyTorch, for tests to compare with: no DeepSpeed, no Ray, nothing of ours."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import PreTrainedModel

from icu_ray.config import ModelTrainingConfig
from icu_ray.data.examples import TokenRows
from tests.support.recipe_case import two_groups


def plainly_finetuned(
    model: PreTrainedModel, rows: TokenRows, how: ModelTrainingConfig, betas: tuple[float, float]
) -> list[float]:
    """Train `model` in place: AdamW, mean over a batch's tokens, linear learning rate; each epoch's mean loss."""
    model.eval()
    groups = two_groups(dict(model.named_parameters()), how.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=how.lr, betas=betas, eps=1e-8)
    of_epoch, step, losses = math.ceil(len(rows) / how.batch_size), 0, []
    for epoch in range(1, how.epochs + 1):
        order, sums = np.random.default_rng([how.seed, epoch]).permutation(len(rows)), []
        for low in range(0, len(rows), how.batch_size):
            chosen = order[low : low + how.batch_size]
            ids = torch.from_numpy(rows.input_ids[chosen])
            mask = torch.from_numpy(rows.mask[chosen].astype(np.int64))
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, :-1]
            labels = torch.from_numpy(rows.labels[chosen])[:, 1:].clone()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            all_steps, warm = how.epochs * of_epoch, round(how.warmup * how.epochs * of_epoch)
            part = (step + 1) / warm if step < warm else (all_steps - step) / (all_steps - warm)
            for group in optimizer.param_groups:
                group["lr"] = how.lr * part
            optimizer.step()
            step += 1
            sums.append(float(loss.detach()))
        losses.append(float(np.mean(sums)))
    return losses
