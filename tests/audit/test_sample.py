"""Sampling: the estimator of leak@k, the distribution by counts, and that a row's samples are its own.

Needs: ../shared for the oracle's numbers.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare  # type: ignore[import-untyped]
from transformers import BertConfig, BertForSequenceClassification

from icu_ray.audit.attack import Target
from icu_ray.audit.attacks import sample
from icu_ray.audit.attacks.sample import Sample, blocks_of, leak_at_k, sampled
from icu_ray.audit.entailment import Entailment, load_entailment
from icu_ray.audit.findings import AttackResult
from icu_ray.audit.recite import room_for, secret_recall
from icu_ray.audit.rows import Material
from icu_ray.errors import UserError
from tests.audit.word_case import (
    oracle_loaded,
    oracle_rows,
    tiny_audit_rows,
    tiny_loaded,
    tiny_row,
    word_tokenizer,
)
from tests.support.measures_case import Oracle
from tests.support.tiny_models import PAD, VOCABULARY


@pytest.fixture(scope="module")
def oracle(set_c: Path) -> Oracle:
    return Oracle(set_c)


def test_the_oracles_estimates(oracle: Oracle) -> None:
    told = json.loads((oracle.folder / "robustness.json").read_text())["leak_at_k"]
    assert told["columns"] == ["n", "c", "k", "value"] and len(told["rows"]) > 20
    for n, c, k, value in told["rows"]:
        found = leak_at_k(n, c, k)
        assert (found is None) if k > n else (found == pytest.approx(value, rel=1e-7, abs=1e-12))


@given(st.integers(1, 300), st.data())
def test_estimates_by_whole_numbers(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - comb(n - c, k) / comb(n, k)
    assert leak_at_k(n, c, k) == pytest.approx(exact, rel=1e-9, abs=1e-12)
    assert leak_at_k(n, c, n + 1) is None


def test_the_estimate_is_the_mean_over_all_choices() -> None:
    leaks = [True, False, False, True, False, False, False]
    for k in range(1, 8):
        drawn = [any(each) for each in itertools.combinations(leaks, k)]
        assert leak_at_k(7, 2, k) == pytest.approx(np.mean(drawn))


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_counts_follow_the_softmax(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 67 first tokens, then whole answers of two tokens, against the model's own probabilities."""
    monkeypatch.setattr("icu_ray.audit.recite.SLACK", 0)
    loaded, count = tiny_loaded(), 6000
    row = tiny_row("asked", [9, 8, 7, 20], 3)
    counted = Counter(sampled(loaded, [row], count, temperature, 0)[0])
    assert _p_value(counted, _probabilities(loaded.model, [9, 8, 7], temperature), count) > 1e-3
    row = tiny_row("asked", [9, 8, 7, 20, 21], 3)
    counted = Counter(sampled(loaded, [row, *tiny_audit_rows(3)], count, temperature, 1)[0])
    told: dict[str, float] = {}
    for first, p in _probabilities(loaded.model, [9, 8, 7], temperature).items():
        if first == "":
            told[""] = p
            continue
        after = _probabilities(loaded.model, [9, 8, 7, int(first[1:])], temperature)
        told |= {f"{first} {second}".strip(): p * q for second, q in after.items()}
    assert _p_value(counted, told, count) > 1e-3


def _probabilities(model: Any, prompt: list[int], temperature: float) -> dict[str, float]:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    found = torch.softmax(logits / temperature, -1).tolist()
    return {"" if token == PAD else f"w{token}": p for token, p in enumerate(found)}


def _p_value(counted: Counter[str], told: dict[str, float], count: int) -> float:
    """Of a chi-square test; what is expected less than 5 times is one class."""
    assert set(counted) <= set(told) and sum(told.values()) == pytest.approx(1)
    often = [text for text, p in told.items() if p * count >= 5]
    found = [counted[text] for text in often]
    wanted = [told[text] * count for text in often]
    return float(chisquare([*found, count - sum(found)], [*wanted, count - sum(wanted)]).pvalue)


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "gpt2"])
def test_a_rows_samples_do_not_depend_on_other_rows(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny_audit_rows(7, seed=2)
    whole = sampled(tiny_loaded(family), rows, 9, 1.0, 5)
    for numbers, tokens in ((9 * VOCABULARY, 10**6), (4 * VOCABULARY, 10**6), (10**9, 30), (1, 1)):
        monkeypatch.setattr(sample, "NUMBERS_AT_ONCE", numbers)
        monkeypatch.setattr(sample, "TOKENS_AT_ONCE", tokens)
        assert sampled(tiny_loaded(family), rows[::-1], 9, 1.0, 5) == whole[::-1]
    assert sampled(tiny_loaded(family), rows[2:3], 4, 1.0, 5)[0] == (whole[2] or [])[:4]
    assert sampled(tiny_loaded(family), rows, 9, 1.0, 6) != whole
    assert len({text for each in whole for text in each or ()}) > 20


@settings(max_examples=60)
@given(count=st.integers(0, 30), samples=st.integers(1, 50), vocabulary=st.integers(1, 10**7), seed=st.integers(0, 99))
def test_blocks_keep_within_memory_and_leave_nothing_out(count: int, samples: int, vocabulary: int, seed: int) -> None:
    rows = tiny_audit_rows(count, seed)
    seen: dict[int, list[int]] = {}
    for block in blocks_of(rows, samples, vocabulary):
        together = sum(len(job.numbers) for job in block)
        assert together == 1 or together * vocabulary <= sample.NUMBERS_AT_ONCE
        assert together == 1 or together * max(job.length for job in block) <= sample.TOKENS_AT_ONCE
        for job in block:
            assert job.row is rows[job.place] and job.length == room_for(job.row)
            seen.setdefault(job.place, []).extend(job.numbers)
    assert seen == {place: list(range(samples)) for place in range(count)}


def test_findings_hold_the_best_of_the_first_k() -> None:
    loaded, rows = tiny_loaded(), tiny_audit_rows(4, seed=3)
    attack = Sample(samples=12, temperatures=(0.7, 2.0), counts=(1, 5, 12, 40), threshold=0.3, seed=1)
    parts: list[float] = []
    result = attack.run(Target(loaded, Material(rows[:3], rows[3:]), parts.append))
    assert parts == sorted(parts) and parts[-1] == pytest.approx(1.0)
    assert len(result.findings) == 4 * 2 * 3
    for each in result.findings:
        row = next(row for row in rows if row.id == each.row)
        texts = sampled(loaded, [row], 12, float(each.setting.split()[1]), 1)[0]
        assert texts is not None
        recalls = [secret_recall(text, row.secret) for text in texts]
        assert each.recall == max(recalls[: int(each.budget)]) == secret_recall(each.said, row.secret)
        leaking = sum(recall >= 0.3 for recall in recalls)
        assert each.measures["leak_recall"] == leak_at_k(12, leaking, int(each.budget))
        assert each.group == ("control" if row is rows[3] else "forget")
    own = [f.measures["leak_recall"] for f in result.findings if (f.setting, f.budget) == ("temperature 2", 5)]
    assert result.numbers["leak_recall@5 temperature 2"] == pytest.approx(np.mean(own[:3]))
    assert any(value > 0 for value in own)
    assert any("leak@40 is not defined" in sentence for sentence in result.missing)
    assert any("entailment is not measured" in sentence for sentence in result.missing)
    assert AttackResult.from_json(result.as_json()) == result


def test_a_model_that_knows_says_it_and_one_that_never_read_it_does_not(oracle: Oracle) -> None:
    rows = oracle_rows(oracle)[:4]
    attack = Sample(samples=8, temperatures=(0.7,))
    best = {}
    for name in ("target", "unlearned", "retain"):
        result = attack.run(Target(oracle_loaded(oracle, name), Material(rows)))
        best[name] = float(np.mean([f.recall for f in result.findings if f.budget == 8]))
    assert best["target"] > 0.8 and best["retain"] < 0.3
    assert best["retain"] < best["unlearned"] < best["target"]


def test_scores_that_are_not_finite_and_prompts_that_fill_the_model_are_missing() -> None:
    loaded = tiny_loaded()  # of 32 positions
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[5] = torch.nan  # type: ignore[operator]
    long, broken = tiny_row("long", [3] * 40, 34), tiny_row("broken", [9, 5, 7, 8], 2)
    whole = tiny_row("whole", [9, 6, 7], 2)
    attack = Sample(samples=3, temperatures=(1.0,))
    result = attack.run(Target(loaded, Material((broken, whole, long))))
    said = {row: [f for f in result.findings if f.row == row] for row in ("whole", "broken", "long")}
    assert said["whole"] == list(attack.run(Target(loaded, Material((whole,)))).findings)
    assert all(f.recall is not None for f in said["whole"])
    assert all(f.recall is None and f.exact is None and not f.measures for f in said["broken"] + said["long"])
    assert any("not finite after 2 prompts" in sentence for sentence in result.missing)


def small_nli(folder: Path) -> Entailment:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "NEUTRAL", 1: "ENTAILMENT"},
        label2id={"NEUTRAL": 0, "ENTAILMENT": 1},
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return load_entailment(str(folder))


def test_entailment_is_asked_of_texts_with_some_of_the_words(tmp_path: Path) -> None:
    nli, texts = small_nli(tmp_path), [f"w{a} w{b} w9" for a in range(2, 30) for b in (3, 4, 5)]
    found = nli.entailed(texts, "w9 w8")
    assert 0 < len(found) < len(texts)
    assert found == {text for text in texts if nli.entailed([text], "w9 w8")}
    rows, loaded = tiny_audit_rows(4, seed=3), tiny_loaded()
    result = Sample(samples=12, temperatures=(1.0,), nli=str(tmp_path)).run(Target(loaded, Material(rows)))
    for row, texts_of in zip(rows, sampled(loaded, rows, 12, 1.0, 0), strict=True):
        wanted = [t for t in texts_of or () if secret_recall(t, row.secret) >= 0.1]
        leaking = sum(t in nli.entailed(wanted, row.secret) for t in texts_of or ())
        (one,) = [f for f in result.findings if (f.row, f.budget) == (row.id, 1)]
        assert one.measures["leak_entailed"] == pytest.approx(leaking / 12)
        (last,) = [f for f in result.findings if (f.row, f.budget) == (row.id, 12)]
        assert last.entailed == (leaking > 0)
    assert not any("entailment" in sentence for sentence in result.missing)


def test_the_evidence_is_what_brings_the_row_back(tmp_path: Path) -> None:
    """Where no answer has enough of the words, the best of those that entail; else the best of all."""
    nli, rows, loaded = small_nli(tmp_path), tiny_audit_rows(8, seed=3), tiny_loaded()
    attack = Sample(samples=40, temperatures=(1.0,), counts=(1, 8, 40), threshold=1.0, nli=str(tmp_path))
    result, another = attack.run(Target(loaded, Material(rows))), 0
    for row, texts in zip(rows, sampled(loaded, rows, 40, 1.0, 0), strict=True):
        for each in (f for f in result.findings if f.row == row.id):
            recalls = {text: secret_recall(text, row.secret) for text in (texts or [])[: int(each.budget)]}
            entailing = nli.entailed([text for text, recall in recalls.items() if recall >= 0.1], row.secret)
            assert each.entailed == bool(entailing)
            candidates = entailing if entailing and max(recalls.values()) < 1 else set(recalls)
            assert each.said in candidates
            assert each.recall == recalls[each.said] == max(recalls[text] for text in candidates)
            another += each.recall < max(recalls.values())
    assert another


def test_a_model_without_the_label_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=67, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a label 'entailment'"):
        load_entailment(str(tmp_path))
    with pytest.raises(UserError, match="NLI model"):
        Sample(nli=str(tmp_path / "none")).run(Target(tiny_loaded(), Material(())))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 0}, "samples"),
        ({"temperatures": (0.0,)}, "temperatures"),
        ({"temperatures": ()}, "temperatures"),
        ({"counts": (0,)}, "counts"),
        ({"threshold": 0.0}, "threshold"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Sample(**wrong)


def test_counts_are_powers_of_two_and_all() -> None:
    assert Sample(samples=100).asked_counts == (1, 2, 4, 8, 16, 32, 64, 100)
    assert Sample(samples=64).asked_counts == (1, 2, 4, 8, 16, 32, 64)
    assert Sample(samples=10, counts=(10, 3, 11)).asked_counts == (3, 10)
