"""A whole trial on rows of prompt and completion, of several lengths: the completions are forgotten.

Needs: a C++ compiler (DeepSpeed).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from icu_ray.config import Columns, ElConfig, StopConfig, TokensConfig
from icu_ray.data.examples import Examples, TokenRows
from icu_ray.data.prompts import joined
from icu_ray.data.tokens import tokenise
from icu_ray.metrics.probe import probe
from icu_ray.models.reference import build_reference
from icu_ray.training.loop import run_trial
from icu_ray.training.records import TrialData
from tests.support.tiny_models import tiny_model
from tests.support.training_case import tokenizer, trial_settings


def rows(seed: int, count: int = 6) -> TokenRows:
    """Prompts of 1 to 4 words with completions of 4 to 9."""
    draw = np.random.default_rng(seed)

    def words(few: int, many: int) -> str:
        return " ".join(f"w{n}" for n in draw.integers(20, 60, size=int(draw.integers(few, many + 1))))

    texts, boundaries = zip(*(joined(words(1, 4), words(4, 9)) for _ in range(count)), strict=True)
    examples = Examples(tuple(f"{seed}-{n}" for n in range(count)), texts, boundaries=boundaries)
    return tokenise(examples, tokenizer(), Columns(16, 4, 8), TokensConfig(), own_columns=True)


def taught(targets: TokenRows) -> PreTrainedModel:
    """A tiny model that knows the completions."""
    assert targets.position_ids is not None
    model = tiny_model("gpt_neo", seed=0)
    told = {
        "input_ids": torch.from_numpy(targets.input_ids),
        "attention_mask": torch.from_numpy(targets.mask).long(),
        "position_ids": torch.from_numpy(targets.position_ids),
        "labels": torch.from_numpy(targets.labels),
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(**told).loss.backward()
        optimizer.step()
    return model


def test_completions_are_forgotten() -> None:
    targets, pairs = rows(1), rows(2)
    assert targets.starts is not None and len(set(targets.starts)) > 2
    model = taught(targets)
    known = probe(model, targets, ngram=2)
    assert known.ma_mean is not None and known.ma_mean > 0.95
    data = TrialData(targets, pairs, rows(3, 3), build_reference(model, pairs))
    settings = trial_settings(
        max_epochs=12, lr=5e-3, stop=StopConfig(ma=0.4, el=0.2, on_empty=False), el=ElConfig(ngram=2)
    )
    outcome = run_trial(settings, data, model, tokenizer())
    assert outcome.status == "finished", outcome.reason
    assert outcome.before.ma == pytest.approx(known.ma_mean)
    assert outcome.after.ma is not None and outcome.after.ma < 0.4
    assert probe(model, targets, ngram=2).ma_mean == pytest.approx(outcome.after.ma)
