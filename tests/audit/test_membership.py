"""Membership inference against the oracle's numbers, and its interval.

Needs: ../shared for two tests.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.membership import Membership, auc_interval
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.rows import Material
from icu_ray.errors import UserError
from icu_ray.metrics.membership import auc
from tests.support.audit_case import oracle_folder, oracle_loaded, oracle_rows, small_loaded, text_rows
from tests.support.measures_case import Oracle

NAMES = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")


@pytest.mark.parametrize("name", ["unlearned", "retain"])
def test_scores_and_areas_are_the_oracle_s(oracle: Oracle, name: str, tmp_path: Path) -> None:
    retrained = oracle_folder(oracle, "retain", tmp_path / "beside")
    material = Material(
        oracle_rows(oracle, "forget"), oracle_rows(oracle, "holdout"), originals={"retrained": str(retrained)}
    )
    result = Membership().run(Target(oracle_loaded(oracle, name, tmp_path), material))
    told = oracle.expected(name)
    for score in NAMES:
        for group, kept in (("forget", "forget"), ("control", "holdout")):
            found = [each.measures[score] for each in result.findings if each.group == group]
            expected = told[f"mia_{score}"][kept]["by_index"]["score"]
            assert found == pytest.approx(expected, rel=2e-4, abs=2e-5), score
        area = result.numbers[f"auc_{score}"]
        # Where model and reference are one, rounding alone decides.
        if (name, score) != ("retain", "reference"):
            assert area == pytest.approx(told[f"mia_{score}"]["auc"], abs=1e-8)
        assert result.numbers[f"auc_{score}_low"] < area < result.numbers[f"auc_{score}_high"] or area in (0, 1)
    assert result.numbers["privleak"] == pytest.approx(told["privleak"]["agg_value"], abs=1e-5)
    assert result.missing == ()
    assert all(each.recall is None for each in result.findings)
    assert AttackResult.from_json(result.as_json()) == result


def test_without_controls_and_reference_there_are_scores_alone(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    result = Membership().run(Target(loaded, Material(text_rows(loaded, ["the quick brown", "lazy dog"]))))
    assert result.numbers == {}
    assert len(result.findings) == 2
    assert len(result.missing) == 2 and "control" in result.missing[0] and "retrained" in result.missing[1]


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(4)))
def test_neither_order_nor_company_counts(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    loaded = small_loaded(tmp_path_factory.mktemp("small"))
    rows = text_rows(loaded, ["the quick brown", "fox jumps over the dog", "and then", "some more dogs"])
    controls = text_rows(loaded, ["then the lazy", "over and over"])
    first = Membership().run(Target(loaded, Material(rows, controls)))
    other = Membership().run(Target(loaded, Material(tuple(rows[k] for k in order), controls[::-1])))
    assert other.numbers == pytest.approx(first.numbers, abs=1e-6)
    measured = {each.row: each.measures for each in other.findings if each.group == "forget"}
    for each in first.findings:
        if each.group == "forget":
            assert measured[each.row] == pytest.approx(each.measures, rel=1e-4)


def test_a_model_of_another_vocabulary_is_no_reference(oracle: Oracle, tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    other = oracle_folder(oracle, "retain", tmp_path / "beside")
    rows = text_rows(loaded, ["the quick brown fox"])
    with pytest.raises(UserError, match="another vocabulary"):
        Membership().run(Target(loaded, Material(rows, rows, originals={"retrained": str(other)})))


@given(st.floats(0, 1), st.integers(1, 300), st.integers(1, 300))
def test_the_interval_holds_the_area_and_mirrors(area: float, members: int, others: int) -> None:
    low, high = auc_interval(area, members, others)
    assert 0 <= low <= area <= high <= 1
    assert high > low
    assert auc_interval(1 - area, members, others) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    assert high - low >= np.subtract(*auc_interval(area, 2 * members, 2 * others)[::-1]) - 1e-9


def test_the_interval_covers_the_true_area() -> None:
    """Two normal distributions, whose true area is known; 95 % is asked for, 2000 draws have a deviation of 0.5 %."""
    generator = np.random.default_rng(0)
    true = 0.85
    apart = 1.4657354  # sqrt(2) times the normal quantile of 0.85
    held = 0
    for _ in range(2000):
        area = auc(generator.normal(0, 1, 20), generator.normal(apart, 1, 30)).value
        assert area is not None
        low, high = auc_interval(area, 20, 30)
        held += low <= true <= high
    assert 0.93 <= held / 2000 <= 0.98


def test_chance_is_within_the_interval() -> None:
    scores = [random.Random(3).random() for _ in range(40)]
    area = auc(scores[:20], scores[20:]).value
    assert area is not None
    low, high = auc_interval(area, 20, 20)
    assert low < 0.5 < high
