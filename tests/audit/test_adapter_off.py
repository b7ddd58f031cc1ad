"""The adapter off: what a base says without it, against peft.

Needs: ../shared for one test.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.adapter_off import AdapterOff
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.recite import recite
from icu_ray.audit.rows import Material
from icu_ray.config import LoraConfig
from icu_ray.models.adapters import attach, save_adapter
from icu_ray.models.loading import LoadedModel, load_model
from tests.support.audit_case import oracle_folder, oracle_rows, small_loaded, text_rows
from tests.support.measures_case import Oracle


def adapter_on(base: Path, place: Path, size: float = 0.3) -> Path:
    """The folder of an adapter on a base, with random weights of a size; NaN: all of them."""
    model = load_model(str(base)).model
    attach(model, LoraConfig(rank=4), 1, "base")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_().mul_(size)
    place.mkdir()
    save_adapter(model, place, str(base), None)
    return place


def test_a_base_that_knows_says_it_with_the_adapter_off(oracle: Oracle, tmp_path: Path) -> None:
    base = oracle_folder(oracle, "target", tmp_path)
    loaded = load_model(str(adapter_on(base, tmp_path / "adapter")))
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    rows, control = oracle_rows(oracle, "forget")[:8], oracle_rows(oracle, "holdout")[:2]
    parts: list[float] = []
    result = AdapterOff().run(Target(loaded, Material(rows, control), parts.append))
    by_setting = {
        setting: [e for e in result.findings if e.setting == setting and e.group == "forget"]
        for setting in ("with the adapter", "0.5 of the adapter", "adapter off")
    }
    assert [each[0].budget for each in by_setting.values()] == [0, 0.5, 1]
    plain = recite(load_model(str(base)), rows)
    assert [(e.said, e.recall, e.exact) for e in by_setting["adapter off"]] == [
        (each.text, each.recall, each.exact) for each in plain
    ]
    assert sum(bool(e.exact) for e in by_setting["adapter off"]) >= 4
    assert not any(e.exact for e in by_setting["with the adapter"])
    assert len([e for e in result.findings if e.group == "control"]) == 3 * len(control)
    assert all(torch.equal(p, before[name]) for name, p in loaded.model.named_parameters())
    assert result.missing == () and parts[-1] == 1
    assert AttackResult.from_json(result.as_json()) == result


def test_half_of_it_is_half_of_what_peft_adds(tmp_path: Path) -> None:
    small_loaded(tmp_path / "base")
    folder = adapter_on(tmp_path / "base", tmp_path / "adapter")
    loaded = load_model(str(folder))
    rows = text_rows(loaded, ["the quick brown fox", "jumps over the lazy", "and then some more dogs"])
    found = AdapterOff().run(Target(loaded, Material(rows))).findings
    import peft

    half = load_model(str(tmp_path / "base"))
    model = peft.PeftModel.from_pretrained(half.model, folder)
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.scale_layer(0.5)
    merged = LoadedModel(model.merge_and_unload(), half.tokenizer, half.folder)
    assert [e.said for e in found if e.setting == "0.5 of the adapter"] == [each.text for each in recite(merged, rows)]
    assert [e.said for e in found if e.budget == 0] == [each.text for each in recite(loaded, rows)]


def test_a_row_without_an_answer_is_told(tmp_path: Path) -> None:
    small_loaded(tmp_path / "base")
    loaded = load_model(str(adapter_on(tmp_path / "base", tmp_path / "adapter", float("nan"))))
    result = AdapterOff().run(Target(loaded, Material(text_rows(loaded, ["the quick brown fox", "and the dogs"]))))
    assert [(e.budget, e.recall, e.exact) for e in result.findings] == [
        (b, None, None) for b in (0, 0.5, 1) for _ in "ab"
    ]
    assert "6 of 6 answers" in result.missing[0]


def test_a_whole_model_has_none_to_take_off(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    result = AdapterOff().run(Target(loaded, Material(text_rows(loaded, ["the quick brown fox"]))))
    assert result.findings == () and "no adapter" in result.missing[0]


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(4)))
def test_neither_order_nor_company_counts(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    place = tmp_path_factory.mktemp("small")
    small_loaded(place / "base")
    loaded = load_model(str(adapter_on(place / "base", place / "adapter")))
    rows = text_rows(loaded, ["the quick brown", "fox jumps over the dog", "and then", "some more dogs"])
    together = AdapterOff().run(Target(loaded, Material(tuple(rows[k] for k in order)))).findings
    alone = [e for row in rows for e in AdapterOff().run(Target(loaded, Material((row,)))).findings]
    assert set(map(str, together)) == set(map(str, alone))
