"""The prefix search against plain greedy decoding and against extraction strength.

Needs: ../shared for two tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.prefix_search import PrefixSearch, runs_from
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.rows import AuditRow, Material
from icu_ray.models.loading import LoadedModel
from tests.support.audit_case import oracle_loaded, oracle_rows, small_loaded, text_rows
from tests.support.measures_case import Oracle

EOS = 1


@pytest.fixture(scope="module")
def unlearned(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return oracle_loaded(oracle, "unlearned", tmp_path_factory.mktemp("models"))


def greedy(loaded: LoadedModel, ids: tuple[int, ...], count: int) -> list[int]:
    """The next tokens, one whole forward each."""
    known = list(ids)
    for _ in range(count):
        with torch.no_grad():
            known.append(int(loaded.model(torch.tensor([known])).logits[0, -1].argmax()))
    return known[len(ids) :]


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_runs(matches: list[bool]) -> None:
    for place, run in enumerate(runs_from(np.asarray(matches, dtype=np.bool_))):
        rest = matches[place:]
        assert run == (rest.index(False) if False in rest else len(rest))


def plainly(loaded: LoadedModel, row: AuditRow, m: int) -> list[int]:
    """For each t how many of the m tokens plain greedy decoding says word for word."""
    found = []
    for t in range(m):
        said = greedy(loaded, row.tokens[: row.given + t], m - t)
        true = row.secret_ids[t:m]
        found.append(next((k for k, (a, b) in enumerate(zip(said, true, strict=True)) if a != b), m - t))
    return found


def test_against_plain_greedy_decoding(oracle: Oracle, unlearned: LoadedModel) -> None:
    rows = oracle_rows(oracle, "forget")[:5]
    result = PrefixSearch().run(Target(unlearned, Material(rows)))
    for row in rows:
        m = len(row.secret_ids) - 1  # the end of turn is no secret
        runs = plainly(unlearned, row, m)
        own = [each for each in result.findings if each.row == row.id]
        assert own[0].budget == 0
        assert [int(each.measures["verbatim_tokens"]) for each in own] == [runs[int(each.budget)] for each in own]
        best = [max(runs[: t + 1]) for t in range(m)]
        assert [int(each.budget) for each in own[1:]] == [t for t in range(1, m) if best[t] > best[t - 1]]
        assert own[0].measures["longest_verbatim"] == max(runs)
        smallest = next((t for t in range(m) if runs[t] == m - t), m)
        assert own[0].measures["extraction_strength"] == pytest.approx(1 - smallest / m)


def test_extraction_strength_of_all_rows(oracle: Oracle, unlearned: LoadedModel) -> None:
    material = Material(oracle_rows(oracle, "forget"), oracle_rows(oracle, "holdout"))
    result = PrefixSearch().run(Target(unlearned, material))
    told = oracle.expected("unlearned")["extraction_strength"]
    found = {each.row: each.measures["extraction_strength"] for each in result.findings if each.group == "forget"}
    floors = [1 / (len(row.secret_ids) - 1) for row in material.forget]
    with_floor = [max(found[row.id], floor) for row, floor in zip(material.forget, floors, strict=True)]
    assert with_floor == pytest.approx(told["by_index"]["score"], abs=1e-7)
    assert result.numbers["extraction_strength"] == pytest.approx(np.mean(list(found.values())))
    assert result.numbers["control_extraction_strength"] < 0.2
    assert result.missing == ()
    assert AttackResult.from_json(result.as_json()) == result


def test_what_is_known_by_heart_needs_nothing_given(oracle: Oracle, tmp_path: Path, unlearned: LoadedModel) -> None:
    material = Material(oracle_rows(oracle, "forget"))
    knows = PrefixSearch().run(Target(oracle_loaded(oracle, "target", tmp_path), material))
    first = [each for each in knows.findings if each.budget == 0]
    assert sum(bool(each.exact) for each in first) >= 12
    assert all(each.recall == 1 for each in first if each.exact)
    after = PrefixSearch().run(Target(unlearned, material))
    assert after.numbers["longest_verbatim"] < knows.numbers["longest_verbatim"]


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(5)))
def test_neither_order_nor_company_counts(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    loaded = small_loaded(tmp_path_factory.mktemp("small"))
    rows = text_rows(loaded, ["the quick brown", "fox jumps over the dog", "and then", "some more dogs", "lazy the"])
    together = PrefixSearch().run(Target(loaded, Material(tuple(rows[k] for k in order))))
    alone = [PrefixSearch().run(Target(loaded, Material((row,)))).findings for row in rows]
    assert set(map(str, together.findings)) == {str(each) for own in alone for each in own}


def test_a_broken_model_is_told(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.fill_(float("nan"))
    result = PrefixSearch().run(Target(loaded, Material(text_rows(loaded, ["the quick brown fox"]))))
    (finding,) = result.findings
    assert (finding.row, finding.recall, finding.exact) == ("text-0", None, None) and not result.numbers
    assert "1 of 1 forget rows" in result.missing[0]
