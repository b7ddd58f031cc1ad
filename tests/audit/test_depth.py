"""The unlearning depth score against the oracle, and what must not change it.

Needs: ../shared for two tests.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.depth import Depth, uds
from icu_ray.audit.patching import log_probs, states_of
from icu_ray.audit.rows import Material
from icu_ray.errors import UserError
from icu_ray.metrics.answers import AnswerRow
from icu_ray.models.hidden import decoder_layers
from tests.support.audit_case import oracle_folder, oracle_loaded, oracle_rows, small_loaded, text_rows
from tests.support.measures_case import Oracle
from tests.support.tiny_models import tiny_model_of


def test_rows_and_mean_are_the_oracle_s(oracle: Oracle, tmp_path: Path) -> None:
    told = json.loads((oracle.folder / "robustness.json").read_text())["uds"]
    originals = {
        "original": str(oracle_folder(oracle, "target", tmp_path)),
        "retrained": str(oracle_folder(oracle, "retain", tmp_path)),
    }
    rows = oracle_rows(oracle, "forget")
    parts: list[float] = []
    target = Target(oracle_loaded(oracle, "unlearned", tmp_path), Material(rows, originals=originals), parts.append)
    result = Depth().run(target)
    found = {each.row: each.measures["depth"] for each in result.findings}
    for each in told["rows"]:
        assert found[f"forget-{each['row']}"] == pytest.approx(each["uds"], abs=1e-5)
    measured = [found[f"forget-{each['row']}"] for each in told["rows"]]
    assert np.mean(measured) == pytest.approx(told["mean"], abs=1e-5)
    assert len(found) == len(rows) and {each.budget for each in result.findings} == {3}
    assert result.numbers["depth"] == pytest.approx(np.mean(list(found.values())))
    assert result.missing == () and parts[-1] == 1


def test_drops_are_the_oracle_s(oracle: Oracle) -> None:
    told = json.loads((oracle.folder / "robustness.json").read_text())["uds"]["rows"]
    rows = {each["row"]: oracle_rows(oracle, "forget")[each["row"]] for each in told}
    block = [AnswerRow.after(rows[each["row"]].tokens[: each["span"][1]], each["span"][0]) for each in told]
    original = oracle.model("target")
    whole = log_probs(original, block, None)
    assert whole == pytest.approx([each["full_score"] for each in told], abs=1e-5)
    for name, key in (("retain", "delta_retain"), ("unlearned", "delta_unlearned")):
        states = states_of(oracle.model(name), block)
        for layer in range(3):
            dropped = whole - log_probs(original, block, (layer, states[layer]))
            assert dropped == pytest.approx([each[key][layer] for each in told], abs=2e-5), (name, layer)


def test_as_the_original_and_as_the_retrained(tmp_path: Path) -> None:
    one, other = small_loaded(tmp_path / "one", seed=1), small_loaded(tmp_path / "other", seed=2)
    rows = text_rows(one, ["the quick brown fox", "jumps over the lazy dog and", "then some more"])
    material = Material(rows, originals={"original": str(one.folder), "retrained": str(other.folder)})
    kept, gone = (Depth(threshold=-99.0).run(Target(model, material)) for model in (one, other))
    assert [each.measures["depth"] for each in kept.findings] == pytest.approx([0.0] * 3, abs=1e-6)
    assert [each.measures["depth"] for each in gone.findings] == pytest.approx([1.0] * 3)
    # Random models: of some rows the other's states take nothing, which is told.
    strict = Depth(threshold=0.5).run(Target(other, material))
    assert len(strict.findings) + sum(int(each.split()[0]) for each in strict.missing) == 3


@pytest.mark.parametrize("family", ["gpt_neo", "opt", "llama", "gpt2", "gpt_neox", "gemma3_text", "mixtral"])
def test_its_own_states_change_nothing_in_any_family(family: str) -> None:
    model = tiny_model_of(family)
    block = [AnswerRow.after(range(5, 15), 4), AnswerRow.after(range(20, 26), 2)]
    states, whole = states_of(model, block), log_probs(model, block, None)
    other = states_of(tiny_model_of(family, seed=1), block)
    assert sorted(states) == list(range(len(decoder_layers(model))))
    for layer, own in states.items():
        assert log_probs(model, block, (layer, own)) == pytest.approx(whole, abs=1e-5)
        assert np.abs(log_probs(model, block, (layer, other[layer])) - whole).max() > 1e-3
    # Alone or with a longer one beside it: what pads a row is not seen.
    alone = block[1:]
    assert log_probs(model, alone, (0, states_of(model, alone)[0])) == pytest.approx(
        log_probs(model, block, (0, states[0]))[1:], abs=1e-5
    )


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(4)))
def test_neither_order_nor_company_counts(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    place = tmp_path_factory.mktemp("small")
    models = [small_loaded(place / str(seed), seed=seed) for seed in range(3)]
    originals = {"original": str(models[0].folder), "retrained": str(models[1].folder)}
    rows = text_rows(models[2], ["the quick brown", "fox jumps over the dog", "and then", "some more dogs"])

    def found(some: tuple[int, ...]) -> dict[str, float]:
        material = Material(tuple(rows[k] for k in some), originals=originals)
        findings = Depth().run(Target(models[2], material)).findings
        return {each.row: each.measures["depth"] for each in findings}

    together = found(tuple(order))
    alone = {name: depth for k in range(4) for name, depth in found((k,)).items()}
    assert together == pytest.approx(alone, abs=1e-4)


@given(st.lists(st.tuples(st.floats(-1, 9), st.floats(-9, 9)), min_size=1, max_size=6))
def test_the_formula(drops: list[tuple[float, float]]) -> None:
    d1, d2 = (np.asarray(each) for each in zip(*drops, strict=True))
    counted = [(a, b) for a, b in drops if a > 0.05]
    found = uds(d1, d2, 0.05)
    if not counted:
        assert found is None
    else:
        assert found == pytest.approx(sum(min(max(b, 0), a) for a, b in counted) / sum(a for a, _ in counted))


def test_without_the_models_beside_it_is_missing(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    result = Depth().run(Target(loaded, Material(text_rows(loaded, ["the quick brown fox"]))))
    assert result.findings == () and "no original model" in result.missing[0]


def test_models_of_other_shapes_are_refused(tmp_path: Path) -> None:
    loaded, other = small_loaded(tmp_path / "m"), small_loaded(tmp_path / "n", "gpt2")
    rows = text_rows(loaded, ["the quick brown fox"])
    originals = {"original": str(loaded.folder), "retrained": str(other.folder)}
    with pytest.raises(UserError, match="2 layers of 32"):
        Depth().run(Target(loaded, Material(rows, originals=originals)))
