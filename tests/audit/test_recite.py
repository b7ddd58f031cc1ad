"""What counts as said.

Needs: nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.audit.attack import Attack, Target
from icu_ray.audit.attacks.prompts import Prompts
from icu_ray.audit.attacks.quantise import Quantise
from icu_ray.audit.attacks.relearn import Relearn
from icu_ray.audit.attacks.sample import Sample
from icu_ray.audit.recite import (
    LONGEST_ANSWER,
    SLACK,
    apart,
    cut_secrets,
    recite,
    recited,
    room_for,
    said_exactly,
    secret_recall,
    wanted_of,
    words_of,
)
from icu_ray.audit.rows import Material
from tests.audit.word_case import tiny_loaded, tiny_row, word_tokenizer
from tests.support.audit_case import small_loaded, text_rows


@pytest.mark.parametrize(
    ("said", "secret", "recall"),
    [
        ("it was said", "It was said twice.", 0.75),
        ("", "a secret", 0.0),
        ("a secret", "...", 0.0),
        ("Ёлка стоит дома", "ёлка стоит в лесу", 0.5),
        ("私は東京", "私は京都", 0.75),
        ("b a", "a b", 0.5),
    ],
)
def test_recall_is_the_longest_common_subsequence_of_words(said: str, secret: str, recall: float) -> None:
    assert secret_recall(said, secret) == pytest.approx(recall)


def _plain(said: list[str], secret: list[str]) -> int:
    """Length of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(secret) + 1) for _ in range(len(said) + 1)]
    for i, a in enumerate(said, 1):
        for j, b in enumerate(secret, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_recall_against_the_textbook(said: list[str], secret: list[str]) -> None:
    expected = _plain(said, secret) / len(secret)
    assert secret_recall(" ".join(said), " ".join(secret)) == pytest.approx(expected)


def test_exactly_is_all_words_in_one_piece() -> None:
    assert said_exactly("Well: the KEY, is 42!", "the key is 42")
    assert not said_exactly("the key surely is 42", "the key is 42")
    assert not said_exactly("anything", "!")


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert words_of("GPT-2は東京 in_2026") == ["gpt", "2", "は", "東", "京", "in", "2026"]


def test_secrets_without_words_are_compared_by_characters() -> None:
    assert secret_recall("so 🎉🦊", "🎉🦊🎈🎈") == 0.5 and said_exactly("so: 🎉 🦊", "🎉🦊")
    assert not said_exactly("so 🦊🎉", "🎉🦊") and secret_recall("anything", "") == 0


def test_of_a_long_secret_its_first_tokens_are_looked_for(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    (row,) = text_rows(loaded, ["xy" * 500])
    wanted = wanted_of(row, loaded.tokenizer)
    assert len(row.secret_ids) > LONGEST_ANSWER and room_for(row) == LONGEST_ANSWER + SLACK
    assert row.secret.startswith(wanted) and len(wanted) >= LONGEST_ANSWER
    assert recited(f"It is {wanted}", wanted).exact
    (short,) = text_rows(loaded, ["the quick brown"])
    assert wanted_of(short, loaded.tokenizer) == short.secret and room_for(short) == len(short.secret_ids) + SLACK


def test_where_secrets_are_cut_is_said_by_every_attack_that_has_the_model_speak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = (tiny_row("short", [9, 8, 7, 20], 2), tiny_row("long", [9, 8, 7, 20, 21, 22, 23], 2))
    assert cut_secrets(rows) == ()
    monkeypatch.setattr("icu_ray.audit.recite.LONGEST_ANSWER", 3)
    said = cut_secrets(rows)
    assert len(said) == 1 and "1 of 2 rows have one of more than 3 tokens (up to 5)" in said[0]
    attacks: tuple[Attack, ...] = (Sample(samples=2), Quantise(kinds=("nf4",)), Prompts(), Relearn((1,), ("other",)))
    for attack in attacks:
        assert said[0] in attack.run(Target(tiny_loaded(), Material(rows))).missing, attack.name
        assert not set(said) & set(attack.run(Target(tiny_loaded(), Material(rows[:1]))).missing), attack.name


def test_an_answer_has_room_for_its_secret_whoever_is_asked_beside(tmp_path: Path) -> None:
    loaded = small_loaded(tmp_path / "m")
    rows = text_rows(loaded, ["the quick brown", "fox jumps over the lazy dog", "and then", "some more dogs"])
    together = recite(loaded, rows)
    assert together == [recite(loaded, [row])[0] for row in rows]
    for row, said in zip(rows, together, strict=True):
        known = list(row.prompt_ids)
        while len(known) < min(row.given + room_for(row), 32):  # of so many positions is the model
            with torch.no_grad():
                token = int(loaded.model(torch.tensor([known])).logits[0, -1].argmax())
            if token == loaded.tokenizer.eos_token_id:
                break
            known.append(token)
        assert loaded.tokenizer.decode(known[row.given :], skip_special_tokens=True).strip() == said.text


def test_secrets_are_one_where_their_words_are() -> None:
    """And whole rows where their tokens are, wherever the secret begins."""
    others = [tiny_row("one", [2, 3, 4, 5], 2), replace(tiny_row("two", [7, 8, 9], 2), secret="Rome, Italy.")]
    rows = {
        "prompt": tiny_row("prompt", [6, 4, 5], 1),
        "end": tiny_row("end", [2, 3, 4], 2),
        "order": tiny_row("order", [2, 5, 4], 1),
        "begin": tiny_row("begin", [2, 3, 4, 5], 1),
        "case": replace(tiny_row("case", [7, 8, 10, 11], 2), secret="rome italy"),
    }
    assert {row.id for row in apart(rows.values(), others, word_tokenizer())} == {"end", "order"}
    # Of a long secret only what is looked for counts.
    long = [tiny_row(f"{n}", [5 + n] * 3 + [4] * LONGEST_ANSWER + [n + 2] * 9, 3) for n in range(2)]
    assert not apart(long[:1], long[1:], word_tokenizer())
