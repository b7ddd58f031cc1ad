"""Rounded weights: the oracle's numbers, each kind against plain arithmetic, and weights as they were afterwards.

Needs: ../shared for the oracle's numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.asking import losses_of, secret_losses
from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.quantise import NF4_LEVELS, Kind, Quantise, quantised, rounded
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.rows import Material
from icu_ray.errors import UserError
from tests.audit.word_case import oracle_loaded, oracle_rows, state_of, tiny_audit_rows, tiny_loaded
from tests.support.measures_case import MODELS, Oracle

NAMES: dict[str, Kind] = {"int8_row_absmax": "int8", "nf4_block64": "nf4"}


@pytest.fixture(scope="module")
def oracle(set_c: Path) -> Oracle:
    return Oracle(set_c)


@pytest.mark.parametrize("model", MODELS)
def test_the_oracles_numbers(oracle: Oracle, model: str) -> None:
    told: dict[str, Any] = json.loads((oracle.folder / "robustness.json").read_text())
    assert list(NF4_LEVELS) == told["nf4_levels"]
    expected, loaded = told["quantisation"][model], oracle_loaded(oracle, model)
    forget, retain = oracle_rows(oracle), oracle_rows(oracle, "retain")[:24]
    result = Quantise(kinds=("int8", "nf4")).run(Target(loaded, Material(forget)))
    by_setting = {s: losses_of(f for f in result.findings if f.setting == s) for s in ("as it is", *NAMES.values())}
    own = expected["none"]
    assert by_setting["as it is"].tolist() == pytest.approx(own["forget_avg_loss"], rel=1e-5, abs=2e-5)
    for name, kind in NAMES.items():
        # A weight halfway between two levels falls to either side: losses move in the fifth digit.
        assert by_setting[kind].tolist() == pytest.approx(expected[name]["forget_avg_loss"], rel=1e-4, abs=2e-5)
        assert np.exp(-by_setting[kind]).mean() == pytest.approx(expected[name]["forget_prob_mean"], rel=1e-4)
        assert result.numbers[f"q_{kind}"] == pytest.approx(expected[name]["Q_on_forget_probability"], abs=1e-5)
        with quantised(loaded.model, kind):
            kept = np.exp(-secret_losses(loaded.model, retain)).mean()
        assert kept == pytest.approx(expected[name]["retain_first24_prob_mean"], rel=1e-5)


def plainly(row: list[list[float]], kind: Kind) -> list[list[float]]:
    """The definitions, number by number."""
    if kind == "int8":
        found = []
        for each in row:
            scale = max(map(abs, each)) / 127 or 1.0
            found.append([round(value / scale) * scale for value in each])
        return found
    if kind == "nf4":
        flat = [value for each in row for value in each]
        out: list[float] = []
        for begin in range(0, len(flat), 64):
            block = flat[begin : begin + 64]
            scale = max(map(abs, block)) or 1.0
            out += [_nearest(value / scale) * scale for value in block]
        width = len(row[0])
        return [out[begin : begin + width] for begin in range(0, len(out), width)]
    if kind == "bf16":
        return [[_to_bits(value, 7) for value in each] for each in row]
    scale = max(abs(value) for each in row for value in each) / 448 or 1.0
    return [[_to_bits(value / scale, 3, smallest=-6) * scale for value in each] for each in row]


def _nearest(value: float) -> float:
    return min(NF4_LEVELS, key=lambda level: abs(level - value))


def _to_bits(value: float, bits: int, smallest: int = -126) -> float:
    """The nearest number with so many bits behind its first one; below 2^smallest steps are as wide as there."""
    if value == 0:
        return 0.0
    step = 2.0 ** (max(int(np.floor(np.log2(abs(value)))), smallest) - bits)
    return float(np.round(value / step) * step)


@pytest.mark.parametrize("kind", ["int8", "nf4", "bf16", "fp8"])
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5), width=st.integers(1, 70), seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 0.02, 9])
)
def test_each_kind_by_its_definition(kind: Kind, rows: int, width: int, seed: int, size: float) -> None:
    matrix = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * size
    assert rounded(matrix, kind).tolist() == [pytest.approx(e, rel=1e-6) for e in plainly(matrix.tolist(), kind)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "qwen3"])
@pytest.mark.parametrize("kind", ["int8", "nf4", "bf16", "fp8"])
def test_linear_layers_alone_change_and_come_back_bit_for_bit(family: str, kind: Kind) -> None:
    model = tiny_loaded(family).model
    before = state_of(model)
    inside: dict[str, bytes] = {}

    def fails() -> None:
        with quantised(model, kind):
            inside.update(state_of(model))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    changed = {name for name in before if before[name] != inside[name]}
    matrices = {name for name, weight in model.named_parameters() if weight.dim() == 2}
    matrices = {name for name in matrices if not any(part in name for part in ("emb", "wte", "wpe", "lm_head"))}
    assert changed == matrices
    assert state_of(model) == before


def test_rows_of_a_gpt2_matrix_are_its_outputs() -> None:
    model: Any = tiny_loaded("gpt2").model
    weight = model.transformer.h[0].mlp.c_fc.weight  # (inputs, outputs)
    own = weight.detach().clone()
    with quantised(model, "int8"):
        steps = weight.detach().double() / (own.double().abs().amax(0) / 127)
        assert torch.allclose(steps, steps.round(), atol=1e-4)


def test_a_finding_does_not_depend_on_other_rows_or_their_order() -> None:
    rows = tiny_audit_rows(9)
    whole = Quantise().run(Target(tiny_loaded(), Material(rows[:6], rows[6:])))
    turned = Quantise().run(Target(tiny_loaded(), Material(rows[:6][::-1][:4], rows[6:])))
    known = {(f.row, f.setting): f for f in whole.findings}
    assert len(turned.findings) == 7 * 5
    for each in turned.findings:
        other = known[each.row, each.setting]
        assert (each.said, each.recall, each.budget) == (other.said, other.recall, other.budget)
        assert each.measures == pytest.approx(other.measures, abs=1e-5)
    assert {f.setting: f.budget for f in whole.findings} == {"as it is": 32, "int8": 8, "nf4": 4, "bf16": 16, "fp8": 8}
    assert AttackResult.from_json(whole.as_json()) == whole


def test_what_says_nothing_is_missing_and_not_forgotten() -> None:
    loaded: Any = tiny_loaded()
    torch.nn.init.constant_(loaded.model.get_output_embeddings().weight, torch.nan)
    result = Quantise(kinds=("bf16",)).run(Target(loaded, Material(tiny_audit_rows(3))))
    assert all(f.recall is None and f.exact is None and not f.measures for f in result.findings)
    assert not result.numbers and "not finite after 3 prompts" in result.missing[0]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="kind 'fp4'"):
        Quantise(kinds=("fp4",))  # type: ignore[arg-type]


def test_experts_outside_of_linear_layers_are_told() -> None:
    result = Quantise(kinds=("int8",)).run(Target(tiny_loaded("mixtral"), Material(tiny_audit_rows(2))))
    assert any("experts" in sentence for sentence in result.missing)
