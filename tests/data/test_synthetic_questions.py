"""Questions about invented people: seeded row by row, with wrong answers of the true one's wording.

Needs: nothing.
"""

from __future__ import annotations

import re

import pytest

from icu_ray.config.file import resolve_config
from icu_ray.data.sources import check_data, load_corpus
from icu_ray.data.synthetic_questions import ALTERNATES, make_questions
from icu_ray.errors import UserError

CONFIG = {
    "name": "questions",
    "data": {"source": "synthetic", "questions": True, "records": 24, "sample_size": 4, "heldout": 6},
    "columns": {"length": 96, "prefix_start": 32, "suffix_start": 64},
    "samples": [0, 1],
    "models": [{"name": "a", "standin": {"size": "small"}}],
    "methods": [{"name": "kumpr"}],
}


def test_a_question_depends_on_its_number_and_the_seed_alone() -> None:
    many = make_questions(3, 0, 12)
    assert make_questions(3, 7, 9) == many[7:9]
    assert make_questions(4, 0, 12) != many
    assert len({row.question for row in make_questions(0, 0, 300)}) == 300  # each about another person


def test_wrong_answers_have_the_same_wording_and_other_facts() -> None:
    for row in make_questions(0, 0, 60):
        assert len({row.answer, *row.alternates}) == ALTERNATES + 1
        who = re.match(r"[A-Z][\w'-]+ [A-Z][\w'-]+", row.answer)
        assert who is not None and who[0] in row.question
        assert all(other.startswith(who[0]) for other in row.alternates)
        assert not re.search(r"[{}\[\]|]", row.question + row.answer + "".join(row.alternates))


def test_rows_have_a_boundary_and_targets_their_wrong_answers() -> None:
    corpus = load_corpus(resolve_config(CONFIG, "t"))
    assert corpus.rows.boundaries is not None and corpus.heldout is not None
    made = make_questions(0, 0, 30)
    for sample in (0, 1):
        rows = corpus.targets[sample]
        assert corpus.alternates[sample] == tuple(made[row].alternates for row in rows)
        for row in rows:
            text, end = corpus.rows.texts[row], corpus.rows.boundaries[row]
            assert text[:end].rstrip() == f"Question: {made[row].question}\nAnswer:"
            assert text[end:].strip() == made[row].answer
    assert set(check_data(resolve_config(CONFIG, "t")).samples[0].answers) == {"sentences", "alternates"}


def test_records_are_what_they_were() -> None:
    plain = {**CONFIG, "data": {**CONFIG["data"], "questions": False}}  # type: ignore[dict-item]
    assert load_corpus(resolve_config(plain, "t")).rows.boundaries is None
    assert check_data(resolve_config(plain, "t")).fingerprint != check_data(resolve_config(CONFIG, "t")).fingerprint


def test_quick_tasks_ask_about_records() -> None:
    with pytest.raises(UserError, match=r"data\.questions has none"):
        resolve_config({**CONFIG, "evaluation": {"suites": ["quick"]}}, "t")
