"""What a model is asked for alternates, and what of its answer counts.

Needs: nothing.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.data.alternates import (
    asking_prompts,
    begins_thinking,
    cut_alternate,
    draw_seed,
    is_alternate,
    refuse_full_positions,
    row_fingerprints,
    true_answers,
)
from icu_ray.data.examples import Examples
from icu_ray.errors import UserError
from icu_ray.training.standins import END_OF_TEXT
from tests.data.test_chats import BEGIN, TURNS, tokenizer

MESSAGES = [
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Ada."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "London."},
]
CHAT = json.dumps({"date": "2024-07-26", "messages": MESSAGES})


def test_a_plain_row_is_followed_by_the_instruction() -> None:
    rows = Examples(("a",), ("Q: Who?\nA: Ada. ",), boundaries=(10,))
    made = tokenizer(None)
    (asked,) = asking_prompts(rows, made, "Invent:\nNew answer:")
    assert made.decode(asked) == "Q: Who?\nA: Ada.\n\nInvent:\nNew answer:"
    assert true_answers(rows) == [" Ada. "]


def test_a_chat_goes_on_with_the_instruction_in_the_models_template() -> None:
    rows = Examples(("a",), ("Who? Ada. Where? London.",), boundaries=(16,), chats=(CHAT,))
    made = tokenizer(TURNS + BEGIN)
    (asked,) = asking_prompts(rows, made, "Invent.")
    turns = [*MESSAGES, {"role": "user", "content": "Invent."}]
    said = "".join(f"<{turn['role']}>\n{turn['content']}{END_OF_TEXT}\n" for turn in turns)
    assert made.decode(asked) == said + "<assistant>\n"
    assert true_answers(rows) == ["London."]
    with pytest.raises(UserError, match="has no chat template"):
        asking_prompts(rows, tokenizer(None), "Invent.")
    with pytest.raises(ValueError, match="rows with prompts"):
        true_answers(Examples(("a",), ("text",)))


def test_an_answer_is_cut_where_the_model_asks_itself_the_next_question() -> None:
    assert cut_alternate(" Bob.\n\nQuestion: Who else?\nAnswer: Eve.") == "Bob."
    assert cut_alternate("Bob. Q: Who? Question: x") == "Bob."
    assert cut_alternate("The FAQ: a page. ") == "The FAQ: a page."
    assert cut_alternate("Question: again?") == ""


def test_reasoning_before_an_answer_is_left_out() -> None:
    said = "<think>\nQuestion: who? Ada, so not Ada.\n</think>\n\nBob.\nQuestion: Who else?"
    assert cut_alternate(said) == "Bob."
    # A template may have begun it.
    assert cut_alternate("not Ada.</think>Bob.") == cut_alternate("not Ada.</think>Bob.", thinking=True) == "Bob."
    assert cut_alternate("<think></think> Bob.") == "Bob."
    # What does not end is no answer, nor is what stands before it.
    assert cut_alternate("<think>Could it be Bob?") == cut_alternate("Bob? <think> no") == ""
    assert cut_alternate("Could it be Bob?", thinking=True) == ""
    assert cut_alternate("<think>a</think>Bob <think>b") == ""
    assert not is_alternate(cut_alternate("<think>Bob"), "Ada.")


@given(st.text(), st.text(alphabet="ab <>/think", max_size=20))
def test_nothing_of_the_reasoning_is_left(thought: str, answer: str) -> None:
    left = cut_alternate(f"<think>{thought}</think>{answer}")
    assert left == cut_alternate(answer) and "<think>" not in left and "</think>" not in left


def test_a_prompt_that_begins_reasoning_is_known() -> None:
    assert begins_thinking("<assistant>\n<think>\n") and begins_thinking("<think>")
    assert not begins_thinking("<assistant>\n<think>\n\n</think>\n\n") and not begins_thinking("What is <think>?\n")


def test_blanks_and_capitals_make_no_other_answer() -> None:
    assert not is_alternate("", "Ada.") and not is_alternate(" \n", "Ada.")
    assert not is_alternate("ada  LOVELACE", " Ada Lovelace ") and not is_alternate("e\u0301", "\u00e9")
    assert is_alternate("Ada Byron", "Ada Lovelace")


@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=4), st.integers(0, 9), st.integers(0, 3)), unique=True))
def test_every_draw_has_a_seed_of_its_own(draws: list[tuple[int, str, int, int]]) -> None:
    seeds = [draw_seed(*draw) for draw in draws]
    assert len(set(seeds)) == len(draws) and all(0 <= seed < 2**63 for seed in seeds)


def test_a_rows_fingerprint_is_its_own() -> None:
    rows = Examples(("a", "b"), ("x y", "x z"), boundaries=(1, 1))
    assert row_fingerprints(rows.select([1])) == row_fingerprints(rows)[1:]
    assert len(set(row_fingerprints(rows))) == 2


def test_a_question_that_fills_the_positions_is_refused() -> None:
    refuse_full_positions(["a"], [[1] * 99], None)
    refuse_full_positions(["a"], [[1] * 99], 100)
    with pytest.raises(UserError, match=r"'a': its question and answer .* have 100 tokens and fill the 100 positions"):
        refuse_full_positions(["a"], [[1] * 100], 100)
