"""The quick look: each row against a search written out plainly, and a model that is left as it was.

Needs: nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from icu_ray.audit.attacks.quantise import quantised
from icu_ray.audit.quick import quick_audit
from icu_ray.audit.recite import SLACK, secret_recall
from icu_ray.audit.rows import AuditRow
from icu_ray.config import LoraConfig
from icu_ray.models.adapters import attach, merge_adapter, merged_meanwhile
from icu_ray.models.loading import LoadedModel
from tests.audit.word_case import state_of, tiny_audit_rows, tiny_loaded, tiny_row
from tests.support.tiny_models import PAD


def taught(rows: Sequence[AuditRow], steps: int, family: str = "llama") -> LoadedModel:
    """A small model after some steps on the rows: it knows a part of them."""
    loaded = tiny_loaded(family)
    optimizer = torch.optim.Adam(loaded.model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        for row in rows:
            ids = torch.tensor([row.tokens])
            loaded.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return loaded


def plainly_said(model: PreTrainedModel, row: AuditRow, leak: float) -> bool:
    """The most probable token after the prompt, as often as the secret has tokens and some more, or until the text or
    the model's positions end."""
    known, reach = list(row.prompt_ids), int(model.config.max_position_embeddings)
    for _ in range(min(len(row.secret_ids) + SLACK, reach - len(known))):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([known])).logits[0, -1].argmax())
        if token == PAD:
            break
        known.append(token)
    return secret_recall(" ".join(f"w{token}" for token in known[row.given :]), row.secret) >= leak


def plainly_back(model: PreTrainedModel, row: AuditRow, leak: float) -> bool:
    """Each prefix by itself, and one token after the other."""
    secret = [token for token in row.secret_ids if token != PAD]
    for count in range(len(secret)):
        known = [*row.prompt_ids, *secret[:count]]
        said: list[int] = []
        while count + len(said) < len(secret):
            with torch.no_grad():
                token = int(model(input_ids=torch.tensor([[*known, *said]])).logits[0, -1].argmax())
            if token != secret[count + len(said)]:
                break
            said.append(token)
        text = " ".join(f"w{token}" for token in said)
        if secret_recall(text, row.secret) >= leak or said == secret:
            return True
    return False


@settings(max_examples=6, deadline=None)
@given(
    steps=st.integers(0, 14),
    leak=st.sampled_from([0.3, 0.5, 1.0]),
    seed=st.integers(0, 5),
    family=st.sampled_from(["llama", "gpt_neo", "gpt2"]),
)
def test_each_row_is_what_a_plain_search_says(steps: int, leak: float, seed: int, family: str) -> None:
    rows = tiny_audit_rows(5, seed)
    loaded = taught(rows, steps, family)
    rounded = copy.deepcopy(loaded.model)
    with quantised(rounded, "nf4"):
        in_4_bits = {row.id: plainly_back(rounded, row, leak) or plainly_said(rounded, row, leak) for row in rows}
    before = state_of(loaded.model)
    found = quick_audit(loaded, rows, leak)
    assert found == {row.id: plainly_back(loaded.model, row, leak) or in_4_bits[row.id] for row in rows}
    assert state_of(loaded.model) == before


def test_what_4_bits_bring_back_counts() -> None:
    """A row that a model on the levels of NF4 just knows, and unlearns by steps that are smaller than half of one."""
    (row,) = rows = (tiny_row("row", [2, 3, 4, 5, 6, 7], 2),)
    steps = next(n for n in range(100) if quick_audit(taught(rows, n), rows, 0.5)["row"])
    loaded = taught(rows, steps + 1)
    with quantised(loaded.model, "nf4"):
        on_levels = copy.deepcopy(loaded.model.state_dict())
    loaded.model.load_state_dict(on_levels)
    assert plainly_back(loaded.model, row, 0.5)
    layers = [each for each in loaded.model.base_model.modules() if isinstance(each, torch.nn.Linear)]
    ids = torch.tensor([row.tokens])
    for _ in range(20):
        loss = loaded.model(input_ids=ids, labels=ids).loss
        gradients = torch.autograd.grad(loss, [layer.weight for layer in layers])
        with torch.no_grad():
            for layer, gradient in zip(layers, gradients, strict=True):
                layer.weight += 2e-4 * gradient.sign()
        if not plainly_back(loaded.model, row, 0.5):
            break
    assert not plainly_back(loaded.model, row, 0.5)
    assert quick_audit(loaded, rows, 0.5) == {"row": True}


def test_rows_of_one_text_are_one_and_what_is_not_measured_is_not_forgotten() -> None:
    known, unknown = tiny_row("text", [2, 3, 4, 5], 1), tiny_row("text", [9, 30, 12, 44, 51], 1)
    loaded = taught([known], 40)
    assert quick_audit(loaded, [unknown], 0.5) == {"text": False}
    assert quick_audit(loaded, [unknown, known], 0.5) == {"text": True}
    assert quick_audit(loaded, [tiny_row("empty", [5, 6, PAD], 2)], 0.5) == {}
    assert quick_audit(loaded, [], 0.5) == {}
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[12] = torch.nan  # type: ignore[operator]
    assert quick_audit(loaded, [unknown], 0.5) == {"text": True}
    # A window without an answer is not measured, whatever is of the others.
    other = tiny_row("text", [8, 30, 44, 51], 1)
    assert quick_audit(loaded, [other], 0.5) == {"text": False}
    assert quick_audit(loaded, [unknown, other], 0.5) == {"text": True}


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2's matrices are stored the other way round
def test_an_adapter_is_rounded_with_the_weights_that_it_changes(family: str) -> None:
    loaded = tiny_loaded(family)
    attach(loaded.model, LoraConfig(rank=2, alpha=4), 0, "tiny")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    merged = copy.deepcopy(loaded.model)
    merge_adapter(merged)
    ids, before = torch.arange(2, 12)[None], state_of(loaded.model)
    with torch.no_grad():
        for kind in ("int8", "nf4"):
            with merged_meanwhile(loaded.model), quantised(loaded.model, kind), quantised(merged, kind):
                torch.testing.assert_close(loaded.model(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loaded.model(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)
    assert state_of(loaded.model) == before
