"""Second answers to prompts: which is drawn, the rows they make, and our list of sentences of ignorance.

Needs: nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icu_ray.data.examples import Examples
from icu_ray.data.ignorance import SENTENCES, sentences_of
from icu_ray.data.prompts import joined
from icu_ray.data.second_answers import AnswerDraws, answered, answers_fingerprint
from icu_ray.errors import UserError

names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8, unique=True)


@settings(max_examples=50, deadline=None)
@given(names, st.integers(0, 9), st.integers(1, 6), st.integers(1, 7))
def test_a_draw_follows_from_seed_epoch_and_id_alone(ids: list[str], seed: int, epochs: int, count: int) -> None:
    draws = AnswerDraws(tuple(ids), (count,) * len(ids), (seed, seed + 1), epochs)
    for epoch in range(1, epochs + 1):
        drawn = draws.drawn(seed, epoch).tolist()
        assert all(0 <= number < count for number in drawn)
        # Without the other targets, other seeds and later epochs it is the same.
        for target, name in enumerate(ids):
            alone = AnswerDraws((name,), (count,), (seed,), epoch)
            assert alone.drawn(seed, epoch).tolist() == [drawn[target]]
        assert [draws.rows[place] for place in draws.places(seed, epoch)] == list(enumerate(drawn))
    assert set(draws.rows) == {
        pair for s in draws.seeds for e in range(1, epochs + 1) for pair in enumerate(draws.drawn(s, e).tolist())
    }
    with pytest.raises(ValueError, match="answers are there for"):
        draws.places(seed, epochs + 1)


def test_draws_are_even() -> None:
    ids = tuple(f"r{number}" for number in range(400))
    draws = AnswerDraws(ids, (4,) * 400, (0,), 20)
    counted = Counter(number for epoch in range(1, 21) for number in draws.drawn(0, epoch).tolist())
    assert all(abs(counted[number] - 2000) < 200 for number in range(4))


@pytest.mark.parametrize("tags", [("", ""), ("Q: ", "\nA: "), ("", "\n")])
def test_a_second_answer_stands_where_the_first_stood(tags: tuple[str, str]) -> None:
    text, boundary = joined("Who wrote it?", "Ada did.", tags)
    other, _ = joined("Who wrote it?", "I don't know.", tags)
    targets = Examples(("a",), (text,), boundaries=(boundary,))
    made = answered(targets, AnswerDraws(("a",), (1,), (0,), 1), [["I don't know."]])
    assert made.texts == [other] and made.boundaries == [boundary] and made.ids == ["a:answer0"]


def test_of_a_chat_the_last_message_is_another() -> None:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}]
    chat = json.dumps({"date": "2024-07-26", "messages": messages})
    targets = Examples(("a",), ("Who? Ada.",), boundaries=(4,), chats=(chat,))
    made = answered(targets, AnswerDraws(("a",), (1,), (0,), 1), [["No idea."]])
    assert made.chats is not None
    told = json.loads(made.chats[0])
    assert told["messages"][-1] == {"role": "assistant", "content": "No idea."}
    assert told["messages"][:-1] == messages[:-1] and told["date"] == "2024-07-26"
    assert made.texts == ["Who? No idea."]


def test_texts_without_prompts_have_no_second_answers() -> None:
    with pytest.raises(ValueError, match="rows with prompts"):
        answered(Examples(("a",), ("text",)), AnswerDraws(("a",), (1,), (0,), 1), [["x"]])


def test_our_sentences_are_a_hundred_different_plain_ones() -> None:
    assert len(SENTENCES) == len(set(SENTENCES)) == 100
    assert all(sentence.endswith(".") and sentence.isascii() and len(sentence) < 60 for sentence in SENTENCES)
    assert sentences_of(None) == SENTENCES


def test_a_file_of_sentences_takes_their_place(tmp_path: Path) -> None:
    file = tmp_path / "refusals.txt"
    file.write_text("\ufeffKeine Ahnung.\n\n  Weiß ich nicht. \r\n", encoding="utf-8")
    assert sentences_of(str(file)) == ("Keine Ahnung.", "Weiß ich nicht.")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"answers.sentences: .*refusals.txt: cannot be read as UTF-8"):
        sentences_of(str(file))
    file.write_text("\n \n")
    with pytest.raises(UserError, match="holds no sentences; expected one a line"):
        sentences_of(str(file))
    with pytest.raises(UserError, match=r"none.txt: no such file; expected a text file"):
        sentences_of(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        sentences_of(str(tmp_path))


def test_fingerprints_tell_what_can_be_drawn() -> None:
    one = answers_fingerprint([["a", "b"], ["c"]])
    assert one == answers_fingerprint((("a", "b"), ("c",)))
    assert one != answers_fingerprint([["a"], ["b", "c"]]) != answers_fingerprint([["a", "b"], ["d"]])
