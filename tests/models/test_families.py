"""Families of models, each as a small random one: loaded from its folder, measured, trained, asked, saved.

Needs: nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from icu_ray.config import ModelConfig
from icu_ray.errors import UserError
from icu_ray.metrics.generation import generate_candidates
from icu_ray.metrics.probe import probe
from icu_ray.models.checking import check_models
from icu_ray.models.hidden import check_seam
from icu_ray.models.loading import load_model
from tests.methods.test_padding import check_loss, check_measured, padded, some_rows
from tests.models.test_loading import save_tokenizer
from tests.support.tiny_models import FAMILIES, MORE_FAMILIES, PAD, VOCABULARY, tiny_model_of

NGRAM = 2


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_a_family_is_loaded_measured_trained_asked_and_saved(family: str, tmp_path: Path) -> None:
    tiny_model_of(family, 3).save_pretrained(tmp_path / "saved")
    save_tokenizer(tmp_path / "saved")
    model = load_model(str(tmp_path / "saved")).model
    check_seam(model)
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny_model_of(family, 3)(ids).logits)
    check_measured(model, 20, 1)
    _check_extraction(model)
    check_loss(tiny_model_of(family, 4), model, 20, 1, prompted=True)
    _check_beams(model)
    model.save_pretrained(tmp_path / "again")
    save_tokenizer(tmp_path / "again")
    with torch.no_grad():
        torch.testing.assert_close(load_model(str(tmp_path / "again")).model(ids).logits, model(ids).logits)


def _check_extraction(model: torch.nn.Module) -> None:
    """EL of rows, by generating from every prefix with the whole text read anew for each token."""
    rows = some_rows(5, shortest=9)
    found = probe(model, padded(rows, 14), ngram=NGRAM).el  # type: ignore[arg-type]
    assert found is not None
    for number, row in enumerate(rows):
        values = []
        for start in range(len(row) - 4, len(row) - NGRAM + 1):
            said = list(row[:start])
            while len(said) < len(row):
                with torch.no_grad():
                    said.append(int(model(torch.tensor([said])).logits[0, -1].argmax()))
            true, own = (list(zip(each[start:], each[start + 1 :], strict=False)) for each in (row, said))
            values.append(np.mean([gram in set(true) for gram in own]))
        assert found[number] == pytest.approx(np.mean(values))


def _check_beams(model: torch.nn.Module) -> None:
    prompts = np.random.default_rng(0).integers(2, VOCABULARY, size=(3, 6))
    prompts[0, :2] = PAD
    mask = prompts != PAD
    settings = GenerationConfig(
        max_new_tokens=5, num_beams=2, do_sample=False, pad_token_id=PAD, eos_token_id=None, bos_token_id=None
    )
    model.generation_config = settings  # type: ignore[assignment]
    with torch.no_grad():
        wanted = model.generate(  # type: ignore[operator]
            input_ids=torch.from_numpy(prompts), attention_mask=torch.from_numpy(mask.astype(np.int64)),
            generation_config=settings,
        )[:, 6:]  # fmt: skip
    said = generate_candidates(model, prompts, mask, max_new_tokens=5, pad_id=PAD, eos_id=None, beams=2)  # type: ignore[arg-type]
    assert said.tolist() == wanted.tolist()


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("gemma2", {"final_logit_softcapping": 5.0}),
        ("cohere", {"logit_scale": 0.1}),
        ("granite", {"logits_scaling": 8}),
    ],
)
def test_a_family_that_bends_or_scales_its_scores_is_refused(
    family: str, keys: dict[str, float], tmp_path: Path
) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"bos_token_id": 0, "eos_token_id": PAD, "pad_token_id": PAD, "max_position_embeddings": 32}
    config = AutoConfig.for_model(family, **sizes, num_key_value_heads=2, intermediate_size=48, head_dim=8, **keys)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"bends or scales its scores after the output matrix \(\w+=[\d.]+\)"):
        check_models([ModelConfig(name="m", source=str(tmp_path))])
    check_measured(load_model(str(tmp_path)).model, 20, 1)  # as `icu-ray probe` does
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(UserError) as refused:  # nor is it trained on by another way
        check_seam(model)
    assert type(model).__name__ in str(refused.value) and "\n" not in str(refused.value)
