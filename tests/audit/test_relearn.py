"""Relearning: the oracle's numbers, what is never counted, and that each source begins from the same weights.

Needs: ../shared for the oracle's numbers.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from icu_ray.audit.asking import mean_probability, secret_losses
from icu_ray.audit.attack import Target
from icu_ray.audit.attacks.relearn import Lesson, Relearn, relearned, relearning_score
from icu_ray.audit.findings import AttackResult, Finding
from icu_ray.audit.plain_sentences import plain_sentences
from icu_ray.audit.rows import Material
from icu_ray.audit.verdict import model_audit
from icu_ray.errors import UserError
from icu_ray.metrics.answers import AnswerRow
from icu_ray.models.loading import load_model
from tests.audit.word_case import (
    oracle_loaded,
    oracle_rows,
    state_of,
    tiny_audit_rows,
    tiny_loaded,
    tiny_row,
    word_tokenizer,
)
from tests.support.audit_case import small_loaded
from tests.support.measures_case import Oracle
from tests.support.tiny_models import tiny_model_of

FAST = Relearn(budgets=(0, 2, 6), lr=3e-3, batch=4)


@pytest.fixture(scope="module")
def oracle(set_c: Path) -> Oracle:
    return Oracle(set_c)


def test_the_oracles_numbers(oracle: Oracle) -> None:
    told: dict[str, Any] = json.loads((oracle.folder / "robustness.json").read_text())["relearning"]
    rows, gains = oracle_rows(oracle), []
    texts = [AnswerRow.after(row.tokens, row.given) for row in rows[:8]]
    for name in ("unlearned", "retain"):
        model = oracle_loaded(oracle, name).model
        losses, probabilities = [], []
        for _ in relearned(model, texts, range(6), "sgd", 0.05, batch=8, seed=3):
            found = secret_losses(model, rows)
            losses.append(float(found[:8].mean()))
            probabilities.append(mean_probability(found))
        assert losses == pytest.approx(told[name]["loss_by_step"], rel=2e-4)
        assert probabilities == pytest.approx(told[name]["forget_prob_mean_by_step"], rel=1e-3)
        gains.append(probabilities[-1] - probabilities[0])
    assert relearning_score(*gains) == pytest.approx(told["R"], rel=1e-3)


def test_the_oracles_models_against_the_retrained_one(oracle: Oracle, tmp_path: Path) -> None:
    loaded, rows, retrained_one = (
        oracle_loaded(oracle, "unlearned"),
        oracle_rows(oracle),
        oracle_loaded(oracle, "retain"),
    )
    retrained_one.model.save_pretrained(tmp_path)
    retrained_one.tokenizer.save_pretrained(tmp_path)
    originals = {"retrained": str(tmp_path)}
    attack = Relearn(budgets=(5,), sources=("own", "kin"), lr=1e-3, batch=8)
    material = Material(rows, oracle_rows(oracle, "retain")[:2], oracle_rows(oracle, "retain")[4:24], originals)
    parts: list[float] = []
    result = attack.run(Target(loaded, material, parts.append))
    assert parts == sorted(parts) and parts[-1] == pytest.approx(1.0)
    assert not result.missing
    for source in ("own", "kin"):
        gain, retrained = (
            result.numbers[f"{whose}probability_{source}@5"] - result.numbers[f"{whose}probability_{source}@0"]
            for whose in ("", "retrained_")
        )
        assert result.numbers[f"r_{source}@5"] == pytest.approx(relearning_score(gain, retrained))
    # Half of the rows bring the others back, which the retrained model never knew.
    assert result.numbers["probability_own@5"] > result.numbers["probability_own@0"] + 0.02
    assert result.numbers["r_own@5"] < 0.2


def by_place(result: AttackResult) -> dict[tuple[str, str, float], Finding]:
    return {(f.row, f.setting, f.budget): f for f in result.findings}


def close(one: Finding, other: Finding) -> None:
    assert (one.group, one.said, one.recall, one.exact) == (other.group, other.said, other.recall, other.exact)
    assert one.measures == pytest.approx(other.measures, abs=1e-4)


def plainly(model: PreTrainedModel, lesson: Lesson, steps: int, lr: float) -> None:
    """Full batches by hand: one row at a time, gradients added up."""
    own = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        own.zero_grad()
        for text in lesson.texts:
            log_p = model(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
            loss = -torch.stack([log_p[place - 1, text.labels[place]] for place in text.scored]).mean()
            (loss / len(lesson.texts)).backward()  # type: ignore[no-untyped-call]
        own.step()


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "gpt2"])
def test_steps_are_those_of_one_row_at_a_time(family: str) -> None:
    rows = tiny_audit_rows(20, seed=1)
    loaded, other = tiny_loaded(family), tiny_loaded(family).model
    attack = Relearn(budgets=(3,), sources=("own",), lr=1e-3, batch=64)
    result = attack.run(Target(loaded, Material(rows)))
    lesson = attack.lesson("own", Material(rows), loaded.tokenizer)
    assert isinstance(lesson, Lesson) and len(lesson.texts) == len(lesson.asked) == 10
    plainly(other, lesson, 3, 1e-3)
    expected = secret_losses(other, lesson.asked)
    found = [f.measures["loss"] for f in result.findings if f.budget == 3]
    assert found == pytest.approx(expected.tolist(), abs=2e-3)


def test_rows_that_are_taught_are_not_asked_for_and_each_source_begins_at_the_same_weights() -> None:
    rows = tiny_audit_rows(8)
    twin = dataclasses.replace(rows[0], id="twin")
    material = Material((*rows, twin), tiny_audit_rows(3, 5, "control"), (*tiny_audit_rows(5, 6, "kin"), rows[1]))
    loaded = tiny_loaded()
    before = state_of(loaded.model)
    result = FAST.run(Target(loaded, material))
    assert state_of(loaded.model) != before
    taught = {source: FAST.lesson(source, material, loaded.tokenizer) for source in FAST.sources}
    for source, lesson in taught.items():
        assert isinstance(lesson, Lesson)
        secrets = {tuple(t for t in text.labels if t != -100) for text in lesson.texts}
        assert not secrets & {row.secret_ids for row in lesson.asked}, source
    alone = [Relearn(budgets=(2, 6), sources=(s,), lr=3e-3, batch=4) for s in FAST.sources]
    apart = [each.run(Target(tiny_loaded(), material)) for each in alone]
    known = by_place(result)
    assert sum(len(each.findings) for each in apart) == len(result.findings)
    for each in apart:
        for finding in each.findings:
            close(finding, known[finding.row, finding.setting, finding.budget])
    assert {f.budget for f in result.findings} == {0, 2, 6}
    assert {f.setting for f in result.findings} == {"own rows", "kin rows", "other texts"}
    assert sum(f.group == "control" for f in result.findings) == 3 * 3 * 3
    assert AttackResult.from_json(result.as_json()) == result
    assert any("retrained" in sentence for sentence in result.missing)


def test_a_secret_that_is_taught_is_asked_for_nowhere() -> None:
    """Whatever its prompt is: of a kin row, of a forget row on which the steps are, and among the control rows."""
    forget, kin = tiny_audit_rows(6), tiny_audit_rows(4, 6, "kin")
    shared = tuple(tiny_row(f"shared{n}", [20 + n, *row.secret_ids], 1) for n, row in enumerate(forget))
    free, known = tiny_audit_rows(3, 5, "control"), tiny_row("known", [30, *kin[0].secret_ids], 1)
    material = Material(forget, (*free, *shared, known), (*kin, *shared))
    loaded = tiny_loaded()
    lesson = FAST.lesson("kin", material, loaded.tokenizer)
    assert isinstance(lesson, Lesson)
    assert {text.ids for text in lesson.texts} == {row.tokens for row in kin} and lesson.asked == forget
    assert "with other secrets" in str(FAST.lesson("kin", Material(forget, (), shared), loaded.tokenizer))
    result = FAST.run(Target(loaded, material))
    asked = {
        setting: {f.row for f in result.findings if f.group == "control" and f.setting == setting}
        for setting in ("own rows", "kin rows", "other texts")
    }
    assert asked["other texts"] == {row.id for row in material.control}
    assert asked["kin rows"] == asked["other texts"] - {"known"}
    own = FAST.lesson("own", material, loaded.tokenizer)
    assert isinstance(own, Lesson) and len(own.texts) == 3
    taught = {tuple(t for t in text.labels if t != -100) for text in own.texts}
    assert asked["own rows"] == {row.id for row in material.control if row.secret_ids not in taught}
    said = [each for each in result.missing if "control rows" in each]
    assert [each.partition(" are not asked")[0] for each in said] == [
        "own rows: 3 of 10 control rows",
        "kin rows: 1 of 10 control rows",
    ]


def test_order_of_rows_and_what_else_is_asked_do_not_matter() -> None:
    rows, control, kin = tiny_audit_rows(9), tiny_audit_rows(4, 5, "control"), tiny_audit_rows(6, 6, "kin")
    first = by_place(FAST.run(Target(tiny_loaded(), Material(rows, control, kin))))
    second = by_place(FAST.run(Target(tiny_loaded(), Material(rows[::-1], control[:1], kin[::-1]))))
    assert len(second) == len(first) - 3 * 3 * 3
    for place, finding in second.items():
        close(finding, first[place])


def test_a_bfloat16_model_learns_as_one_in_float32() -> None:
    rows, attack = tiny_audit_rows(8), Relearn(budgets=(20,), sources=("own",), lr=2e-5, batch=4)
    half, full = tiny_loaded(), tiny_loaded()
    half.model.bfloat16()
    full.model.bfloat16().float()  # type: ignore[no-untyped-call]
    found, expected = (attack.run(Target(each, Material(rows))) for each in (half, full))
    assert found == expected
    losses = {f.budget: f.measures["loss"] for f in found.findings if f.row == found.findings[0].row}
    assert losses[0] != losses[20]


def test_what_cannot_be_taught_is_missing(tmp_path: Path) -> None:
    loaded = tiny_loaded()
    result = Relearn(budgets=(1,)).run(Target(loaded, Material(tiny_audit_rows(1))))
    assert {f.setting for f in result.findings} == {"other texts"}
    assert any(each.startswith("own rows") for each in result.missing)
    assert any(each.startswith("kin rows") for each in result.missing)
    same = tuple(tiny_row(f"r{n}", [5, 6, 7, 8], 2) for n in range(4))
    assert "none is left" in str(FAST.lesson("own", Material(same), loaded.tokenizer))
    gone = Material(tiny_audit_rows(2), originals={"retrained": "./no-such-folder"})
    result = Relearn(budgets=(1,), sources=("other",)).run(Target(loaded, gone))
    assert any("cannot be read" in each for each in result.missing)
    loaded = tiny_loaded()
    small_loaded(tmp_path)
    other = Material(tiny_audit_rows(2), originals={"retrained": str(tmp_path)})
    result = Relearn(budgets=(1,), sources=("other",)).run(Target(loaded, other))
    assert any(each.startswith("R: ") and "another vocabulary" in each for each in result.missing)


OWN_CODE = """from transformers import LlamaConfig, LlamaForCausalLM


class Config(LlamaConfig):
    model_type = "brought"


class Model(LlamaForCausalLM):
    config_class = Config
"""


def model_with_its_own_code(folder: Path, seed: int) -> str:
    tiny_model_of("llama", seed).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    classes = {"AutoConfig": "brought.Config", "AutoModelForCausalLM": "brought.Model"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "brought", "auto_map": classes}))
    (folder / "brought.py").write_text(OWN_CODE)
    return str(folder)


def test_a_retrained_model_brings_its_own_code_where_that_of_the_model_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own, gold = (model_with_its_own_code(tmp_path / f"m{seed}", seed) for seed in range(2))
    attack = Relearn(budgets=(1,), sources=("other",))
    material = Material(tiny_audit_rows(2), originals={"retrained": gold})
    trusted = attack.run(Target(load_model(own, trust_remote_code=True), material))
    assert "r_other@1" in trusted.numbers and not trusted.missing
    # The numbers are those of the same weights in the library's class.
    plain = tmp_path / "plain"
    tiny_model_of("llama", 1).save_pretrained(plain)
    word_tokenizer().save_pretrained(plain)
    library = attack.run(Target(tiny_loaded(), Material(material.forget, originals={"retrained": str(plain)})))
    assert trusted.numbers == pytest.approx(library.numbers, abs=1e-6)
    # A model of the library's own classes says nothing of trust.
    result = attack.run(Target(tiny_loaded(), material))
    assert "r_other@1" not in result.numbers
    assert any("cannot be read" in each and "comes with its own code" in each for each in result.missing)


def test_scores_that_are_not_finite_are_missing() -> None:
    loaded = tiny_loaded()
    result = Relearn(budgets=(3,), sources=("other",), lr=1e30, optimizer="sgd").run(
        Target(loaded, Material(tiny_audit_rows(3)))
    )
    after = [f for f in result.findings if f.budget == 3]
    assert len(after) == 3 and all(f.recall is None for f in after)
    assert any("not finite" in each for each in result.missing)
    assert all(np.isfinite(list(result.numbers.values())))
    # What was said before the first step is no answer to the attack.
    assert all(f.recall is not None for f in result.findings if f.budget == 0)
    audit = model_audit({"relearn": result}, {"relearn": "steps"}, 0.5)
    assert audit.share is None and audit.unanswered == {"relearn": 3}


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_the_score_is_at_most_one(gain: float, retrained: float) -> None:
    found = relearning_score(gain, retrained)
    assert found <= 1 and (gain > 0 or found == 1)


def test_plain_sentences_are_many_and_the_same_for_a_seed() -> None:
    texts = plain_sentences(256, 0)
    assert len(set(texts)) > 250 and plain_sentences(9, 0) == texts[:9] and plain_sentences(9, 1) != texts[:9]
    assert texts[0].count(".") == 2 and word_tokenizer()(texts[0])["input_ids"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sources": ("kith",)}, "kith"),
        ({"optimizer": "adam"}, "adam"),
        ({"budgets": ()}, "budgets"),
        ({"budgets": (-1,)}, "budgets"),
        ({"share": 1.0}, "share"),
        ({"batch": 0}, "batch"),
        ({"lr": 0.0}, "lr"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Relearn(**wrong)


def test_windows_of_one_text_are_taught_together() -> None:
    rows = tuple(dataclasses.replace(row, id=f"text{n // 3}") for n, row in enumerate(tiny_audit_rows(18)))
    lesson = Relearn().lesson("own", Material(rows), word_tokenizer())
    assert isinstance(lesson, Lesson)
    asked = {row.id for row in lesson.asked}
    assert len(asked) == 3 and len(lesson.asked) == 9 == len(lesson.texts)
    taught = {text.ids for text in lesson.texts}
    assert not any(row.tokens in taught for row in rows if row.id in asked)
