"""Losses by distance from what was forgotten.

Needs: ../shared for one test.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.neighbours import Neighbours, mean_states, nearest_distances
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.rows import Material
from icu_ray.metrics.answers import avg_losses
from icu_ray.models.hidden import last_hidden
from tests.support.audit_case import oracle_folder, oracle_loaded, oracle_rows, small_loaded, text_rows
from tests.support.measures_case import Oracle

TEXTS = ["the quick brown", "fox jumps over the dog", "and then", "some more dogs", "lazy", "over the brown"]


def test_losses_before_and_after_by_distance(oracle: Oracle, tmp_path: Path) -> None:
    original = oracle_folder(oracle, "target", tmp_path)
    kin = oracle_rows(oracle, "retain") + oracle_rows(oracle, "world_facts")
    material = Material(oracle_rows(oracle, "forget"), kin=kin, originals={"original": str(original)})
    parts: list[float] = []
    result = Neighbours().run(Target(oracle_loaded(oracle, "unlearned", tmp_path), material, parts.append))
    found = {each.row: each.measures for each in result.findings}
    assert len(found) == 64 and {each.group for each in result.findings} == {"kin"}
    for name, key in (("target", "loss_before"), ("unlearned", "loss")):
        for kind in ("retain", "world_facts"):
            told = avg_losses(oracle.answers(name, kind).right)
            measured = [found[f"{kind}-{place}"][key] for place in range(len(told))]
            assert measured == pytest.approx(told.tolist(), rel=1e-4, abs=2e-5)
    order = sorted(found.values(), key=lambda each: each["distance"])
    assert result.numbers["nearest_distance"] == pytest.approx(np.mean([e["distance"] for e in order[:13]]))
    assert result.numbers["farthest_loss_change"] == pytest.approx(np.mean([e["loss_change"] for e in order[-12:]]))
    assert result.numbers["nearest_distance"] < result.numbers["bin_3_distance"] < result.numbers["farthest_distance"]
    # Questions about authors are nearer to questions about an author than those about the world.
    kinds = {kind: np.mean([e["distance"] for n, e in found.items() if n.startswith(kind)]) for kind in ("ret", "wor")}
    assert kinds["ret"] < kinds["wor"]
    assert result.missing == () and parts[-1] == 1
    assert AttackResult.from_json(result.as_json()) == result


def test_states_are_the_mean_over_the_text(tmp_path: Path) -> None:
    for family in ("llama", "gpt_neo", "opt"):
        loaded = small_loaded(tmp_path / family, family)
        rows = text_rows(loaded, TEXTS)
        end = loaded.tokenizer.eos_token_id
        ended = [replace(row, tokens=(*row.tokens, end)) for row in rows]
        found = mean_states(loaded, [*rows, *ended])
        for row, own, with_end in zip(rows, found[: len(rows)], found[len(rows) :], strict=True):
            with torch.no_grad():
                plain = last_hidden(loaded.model, torch.tensor([row.tokens]), None)[0].mean(0)
            assert own == pytest.approx(plain.numpy(), abs=1e-5)
            assert with_end == pytest.approx(own, abs=1e-5)


def test_a_row_is_nearest_to_itself(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    rows = text_rows(loaded, TEXTS)
    assert nearest_distances(loaded, rows, rows[:2])[:2] == pytest.approx([0, 0], abs=1e-9)
    assert (nearest_distances(loaded, rows, rows[:2])[2:] > 1e-3).all()


def test_without_the_original_losses_alone_are_told(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    rows = text_rows(loaded, TEXTS)
    result = Neighbours(bins=2).run(Target(loaded, Material(rows[:2], kin=rows[2:])))
    assert set(result.numbers) == {"nearest_distance", "nearest_loss", "farthest_distance", "farthest_loss"}
    assert "no original" in result.missing[0]
    assert Neighbours().run(Target(loaded, Material(rows))).missing


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(2)))
def test_the_order_of_rows_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], forgotten: list[int]
) -> None:
    loaded = small_loaded(tmp_path_factory.mktemp("small"))
    rows = text_rows(loaded, TEXTS)
    kin, forget = rows[:4], rows[4:]
    first = Neighbours(bins=3).run(Target(loaded, Material(forget, kin=kin)))
    other = Neighbours(bins=3).run(
        Target(loaded, Material(tuple(forget[k] for k in forgotten), kin=tuple(kin[k] for k in order)))
    )
    assert other.numbers == pytest.approx(first.numbers, abs=1e-5)
    measured = {each.row: each.measures for each in other.findings}
    assert all(measured[each.row] == pytest.approx(each.measures, abs=1e-5) for each in first.findings)
