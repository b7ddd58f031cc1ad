"""Rows asked of a model: loss and words as one row at a time.

Needs: nothing.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.asking import asked, asked_all, losses_of, mean_probability, missing_of
from icu_ray.audit.recite import recite, room_for, secret_recall
from icu_ray.audit.rows import Material
from tests.audit.word_case import tiny_audit_rows, tiny_loaded
from tests.support.tiny_models import PAD

loaded_of = functools.cache(tiny_loaded)


def plainly(family: str, prompt: tuple[int, ...], count: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < min(len(prompt) + count, 32):  # of so many positions is the model
        with torch.inference_mode():
            token = int(loaded_of(family).model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == PAD:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 6), known=st.integers(0, 9))
def test_as_one_row_at_a_time(family: str, seed: int, count: int, known: int) -> None:
    loaded, rows = loaded_of(family), list(tiny_audit_rows(count, seed))
    said = [plainly(family, row.prompt_ids, room_for(row)) for row in rows]
    # The first row's secret is what the model says up to some token, so that its answer begins with what is known.
    secret = (*said[0][:known], *rows[0].secret_ids)[: len(rows[0].secret_ids)]
    rows[0] = dataclasses.replace(
        rows[0], tokens=(*rows[0].prompt_ids, *secret), secret=" ".join(f"w{token}" for token in secret)
    )
    found = asked(loaded, rows, "forget", "as it is", 0)
    for row, tokens, each in zip(rows, said, found, strict=True):
        text = " ".join(f"w{token}" for token in tokens)
        assert (each.row, each.said, each.recall) == (row.id, text, secret_recall(text, row.secret))
        with torch.inference_mode():
            log_p = loaded.model(input_ids=torch.tensor([row.tokens])).logits[0].log_softmax(-1)
        own = [float(log_p[place - 1, row.tokens[place]]) for place in range(row.given, len(row.tokens))]
        assert each.measures["loss"] == pytest.approx(-np.mean(own), abs=1e-4)
    assert [each.text for each in recite(loaded, rows)] == [each.said for each in found]


def test_controls_come_behind_and_do_not_count() -> None:
    rows = tiny_audit_rows(5)
    found = asked_all(loaded_of("llama"), Material(rows[:3], rows[3:]), "as it is", 0)
    assert [each.group for each in found] == ["forget"] * 3 + ["control"] * 2
    losses = losses_of(found)
    assert losses.tolist() == [each.measures["loss"] for each in found[:3]]
    assert mean_probability(losses) == pytest.approx(np.exp(-losses).mean())
    assert not missing_of(found) and np.isnan(mean_probability([])) and np.isnan(mean_probability([1.0, np.nan]))
