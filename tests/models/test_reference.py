"""The frozen original model: same distributions however it is kept, on disk and back, small enough.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from icu_ray.errors import UserError
from icu_ray.models.hidden import check_seam, last_hidden, output_head
from icu_ray.models.reference import Reference, build_reference, save_head
from tests.support.tiny_models import FAMILIES, VOCABULARY, tiny_model, tiny_rows


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seam_is_where_logits_come_from(family: str) -> None:
    model, rows = tiny_model(family), tiny_rows(4, 0)
    ids, mask = torch.tensor(rows.input_ids), torch.tensor(rows.mask.astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
        weight, bias = output_head(model)
        product = torch.nn.functional.linear(last_hidden(model, ids, mask), weight, bias)
    torch.testing.assert_close(product, logits)


def test_a_model_that_caps_its_logits_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.1,
        initializer_range=1.0,
    )
    with pytest.raises(UserError, match="scaled or capped"):
        check_seam(Gemma2ForCausalLM(config))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["hidden", "probs", "recompute"])
def test_every_cache_gives_the_original_distribution_after_training_moved_on(
    family: str, cache: str, tmp_path: Path
) -> None:
    model, pairs, targets = tiny_model(family), tiny_rows(5, 1), tiny_rows(5, 2)
    ids, mask = torch.tensor(pairs.input_ids), torch.tensor(pairs.mask.astype(np.int64))
    positions = torch.tensor(pairs.position_ids)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    built = build_reference(model, pairs, cache, targets=targets, batch_size=2)  # type: ignore[arg-type]
    built.save(tmp_path)
    head = tmp_path / "head"
    head.mkdir()
    save_head(model, head)
    loaded = Reference.load(tmp_path, head if cache == "hidden" else None, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    chosen = [3, 0]
    where = torch.tensor([5, 17])
    for reference in (built, loaded):
        batch = reference.batch(chosen)
        length = pairs.columns.length
        wanted = torch.stack([expected[chosen[int(w) // length], int(w) % length] for w in where])
        found = batch.scores_into(torch.empty(2, VOCABULARY), where).log_softmax(-1)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
        assert len(reference) == 5
    assert built.pair_nll is not None and loaded.pair_nll is not None
    torch.testing.assert_close(built.pair_nll, loaded.pair_nll)
    scored = torch.tensor(pairs.labels[:, 1:] >= 0)
    nll = -expected[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(built.pair_nll[:, 1:], nll * scored, atol=2e-5, rtol=1e-4)


def test_it_is_read_in_eval_mode_and_leaves_the_model_as_it_was() -> None:
    model = tiny_model("opt", dropout=0.5).train()
    first, second = (build_reference(model, tiny_rows(3, 0)) for _ in range(2))
    assert model.training
    assert first.hidden is not None and second.hidden is not None
    torch.testing.assert_close(first.hidden, second.hidden)


def test_the_cache_is_a_fortieth_of_dense_probabilities() -> None:
    """At 128 x 200 positions and GPT-Neo 125M's 50,257 x 768; the tensors are counted, not made."""
    dense = 128 * 200 * 50257 * 4
    for dtype, rows_share, with_matrix in ((torch.float32, 65, 22), (torch.bfloat16, 130, 44)):
        hidden, matrix = (torch.empty(s, device="meta", dtype=dtype) for s in ((128, 200, 768), (50257, 768)))
        assert dense // hidden.nbytes == rows_share
        assert dense // Reference("hidden", hidden=hidden, weight=matrix).nbytes == with_matrix


def test_only_what_a_method_needs_is_kept(tmp_path: Path) -> None:
    """npo has no pairs and no divergence: the token losses of its targets are all that remains."""
    model, targets = tiny_model("gpt_neo"), tiny_rows(3, 0)
    build_reference(model, None, "none", targets=targets).save(tmp_path)
    reference = Reference.load(tmp_path)
    assert set(reference.tensors()) == {"target_nll"} and len(reference) == 3
    batch = reference.batch([2])
    assert batch.target_nll is not None and batch.target_nll.shape == (1, targets.columns.length)
    with pytest.raises(ValueError, match="there are none"):
        build_reference(model, None)


def test_recompute_without_a_model_says_so(tmp_path: Path) -> None:
    build_reference(tiny_model("llama"), tiny_rows(3, 0), "recompute").save(tmp_path)
    with pytest.raises(ValueError, match="needs the original model"):
        Reference.load(tmp_path).batch([0])
