"""Where OpenUnlearning departs from the measures' definitions, and that each departure has a name of its own.

Needs: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from icu_ray.config import ConventionsConfig, SweepConfig, TofuData
from icu_ray.config.file import apply_override, resolve_config
from icu_ray.errors import UserError
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked, benchmark_task
from icu_ray.evaluation.model_requests import Answer
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.metrics import membership
from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import AnswerRow, AnswerScores, exact_memorization, extraction_strength, truth_ratios
from icu_ray.metrics.conventions import DEFINED, LATER, Conventions, conventions_of, told_choices
from icu_ray.metrics.rouge import rouge_scores
from tests.data.test_prompt_styles import words_tokenizer
from tests.support.benchmark_case import tofu_folder
from tests.support.tiny_models import tiny_model

EOS, PAD = 7, 5
DEPARTURES: dict[str, tuple[Any, Any]] = {
    "tail": ("eos", "last_label"),
    "es_floor": ("none", "ou"),
    "empty": ("missing", "zero"),
    "mask": ("length", "pad_id"),
    "gradient_mode": ("eval", "train"),
    "rows": ("default", "open_unlearning"),
    "generation_end": ("turn", "text"),
    "unmeasured": ("left_out", "nan"),
}
"""By name: what is defined, and what OpenUnlearning does."""
OTHERS: dict[str, tuple[Any, Any]] = {
    "membership_tail": ("last_label", "eos"),
    "wrong_mean": ("geometric", "arithmetic"),
    "stemmer": (True, False),
}
"""What OpenUnlearning does as it is defined: what is defined, and what others do (MUSE's code, TOFU's paper)."""


def scored(matches: list[bool], last: int = 9) -> AnswerScores:
    """A row of tokens 1, 2, ... and a last one, the first the least probable."""
    n = len(matches)
    tokens = np.asarray([*range(1, n), last][:n], dtype=np.int64)
    log_probs = -np.asarray([float(n - place) for place in range(n)])
    return AnswerScores(tokens, log_probs, np.asarray(matches), np.full(n, -2.0), np.ones(n))


def gradient(by: Conventions) -> float:
    row = AnswerRow.after([1, PAD, 3, 4, EOS], 2)
    return float(membership.gradient_norms(tiny_model("llama", dropout=0.5), [row], EOS, conventions=by, pad_id=PAD)[0])


def loss(by: Conventions) -> float:
    row = AnswerRow.after([1, PAD, 3, 4, EOS], 2)
    return float(answer_scores(tiny_model("llama"), [row], conventions=by, pad_id=PAD)[0].log_probs.sum())


MEASURED: dict[str, Callable[[Conventions], float]] = {
    "tail": lambda by: float(exact_memorization([scored([True, False])], EOS, by)[0]),
    "es_floor": lambda by: float(extraction_strength([scored([True, False, False, False])], EOS, by)[0]),
    "empty": lambda by: float(extraction_strength([scored([])], EOS, by)[0]),
    "mask": loss,
    "gradient_mode": gradient,
    "membership_tail": lambda by: float(membership.min_k_scores([scored([True] * 4)], EOS, 1.0, by)[0]),
    "wrong_mean": lambda by: float(truth_ratios([1.0], [[0.5, 3.0]], by)[0]),
    "stemmer": lambda by: float(rouge_scores(["he was running"], ["he runs"], by).rougeL_recall[0]),
}


def test_every_choice_is_named_here_and_open_unlearning_sets_each() -> None:
    assert {each.name for each in fields(Conventions)} == DEPARTURES.keys() | OTHERS.keys()
    defined, theirs = asdict(Conventions()), asdict(Conventions.open_unlearning())
    assert defined == {name: usual for name, (usual, _) in (DEPARTURES | OTHERS).items()}
    assert theirs == {name: own for name, (_, own) in DEPARTURES.items()} | {
        name: usual for name, (usual, _) in OTHERS.items()
    }


@pytest.mark.parametrize("name", MEASURED)
def test_a_choice_alone_changes_its_number(name: str) -> None:
    _, other = (DEPARTURES | OTHERS)[name]
    usual, changed = (MEASURED[name](by) for by in (Conventions(), replace(Conventions(), **{name: other})))
    assert usual != changed and not (np.isnan(usual) and np.isnan(changed))


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., BenchmarkAsked]:
    section = TofuData(source="tofu", split="forget01", folder=str(tofu_folder(tmp_path)), template="chat")

    def made(**choices: Any) -> BenchmarkAsked:
        return BenchmarkAsked(section, section.as_records().form, Conventions(**choices))

    return made


def test_rows_ends_and_missing_rows_by_their_own_names(asked: Callable[..., BenchmarkAsked]) -> None:
    tokenizer: PreTrainedTokenizerFast = words_tokenizer()
    usual, theirs = (
        benchmark_task("tofu_forget", each).load().ask(tokenizer) for each in (asked(), asked(rows="open_unlearning"))
    )
    assert len(theirs[0].tokens) > len(usual[0].tokens)  # which ends twice
    said = [benchmark_task("tofu_forget_said", each).load() for each in (asked(), asked(generation_end="text"))]
    assert [each.measure.ends for each in said] == ["turn", "text"]

    def means(**choices: Any) -> set[str]:
        task = benchmark_task("tofu_forget", asked(**choices), 2).load()
        requests = task.ask(tokenizer)
        # The first row has no token; what it is asked in detail is empty, too.
        answers = [
            Answer(0.0, 0, scores=() if request.detail else None)
            if request.document == 0
            else Answer(-1.0, 1, scores=((-1.0, True, -2.0, 1.0),) if request.detail else None)
            for request in requests
        ]
        one = [replace(r, given=len(r.tokens) - (0 if r.document == 0 else 1)) for r in requests]
        return set(task.score(one, answers).metrics)

    counted, lost = means(), means(unmeasured="nan")
    assert {"tofu/forget_Q_A_Prob", "tofu/forget_Truth_Ratio"} <= counted - lost
    assert all("Prob" not in name and "Truth" not in name for name in lost)


def test_tasks_of_before_there_were_later_choices_are_known_by_what_they_were() -> None:
    assert not set(Conventions().told()) & set(LATER)
    assert set(Conventions(rows="open_unlearning").told()) & set(LATER) == {"rows"}
    told = {str(sorted(Conventions(**{name: other}).told().items())) for name, (_, other) in DEPARTURES.items()}
    assert len(told) == len(DEPARTURES)


def config_with(folder: Path, conventions: Any, *overrides: str) -> SweepConfig:
    tree: dict[str, Any] = {
        "name": "t",
        "data": {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(folder)},
        "models": [{"name": "a", "standin": {"size": "small"}}],
        "evaluation": {"suites": ["benchmark"], "conventions": conventions},
    }
    for override in overrides:
        tree = apply_override(tree, override)
    return resolve_config(tree, "mine.yaml", overrides)


@pytest.mark.parametrize(
    ("asked", "expected", "written"),
    [
        ("defined", Conventions(), "defined"),
        ("open_unlearning", Conventions.open_unlearning(), "open_unlearning"),
        ({}, Conventions(), "defined"),
        ({"base": "open_unlearning"}, Conventions.open_unlearning(), "open_unlearning"),
        (
            {"wrong_mean": "arithmetic"},
            Conventions(wrong_mean="arithmetic"),
            {"base": "defined", "wrong_mean": "arithmetic"},
        ),
        (
            {"base": "open_unlearning", "tail": "eos", "stemmer": False},
            replace(Conventions.open_unlearning(), tail="eos", stemmer=False),
            {"base": "open_unlearning", "tail": "eos", "stemmer": False},
        ),
    ],
)
def test_a_config_asks_for_all_of_them_or_for_some(
    tmp_path: Path, asked: Any, expected: Conventions, written: Any
) -> None:
    config = config_with(tofu_folder(tmp_path), asked)
    _, options = sweep_tasks(config)
    assert options.benchmark is not None and options.benchmark.conventions == expected
    tree = config.model_dump(mode="json")
    assert tree["evaluation"]["conventions"] == written
    assert resolve_config(tree, "again").evaluation == config.evaluation


def test_a_choice_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = tofu_folder(tmp_path)
    key = "mine.yaml: evaluation.conventions"
    for wrong, said in (
        ("open_unlearnt", rf"^{key}: expected 'defined' or 'open_unlearning', found \"open_unlearnt\".*did you mean"),
        ({"tale": "eos"}, rf"^{key}.tale: unknown key .did you mean 'tail'.*known: base, empty, .*wrong_mean$"),
        ({"tail": "last"}, rf"^{key}.tail: expected 'eos' or 'last_label', found \"last\""),
        ({"base": "muse"}, rf"^{key}.base: expected 'defined' or 'open_unlearning'"),
        (3, rf"^{key}: "),
    ):
        with pytest.raises(UserError, match=said) as refused:
            config_with(folder, wrong)
        assert "\n" not in str(refused.value)
    override = "evaluation.conventions={base: open_unlearning, tail: eos}"
    assert isinstance(config_with(folder, "defined", override).evaluation.conventions, ConventionsConfig)
    with pytest.raises(UserError, match=r"evaluation\.conventions is for suite benchmark"):
        config_with(folder, {"tail": "last_label"}, "evaluation.suites=[]")


def test_every_choice_can_be_made_in_a_config() -> None:
    choices = {name: each for name, each in ConventionsConfig.model_fields.items() if name != "base"}
    assert set(choices) == {each.name for each in fields(Conventions)}
    for name, both in (DEPARTURES | OTHERS).items():
        for value in both:
            assert ConventionsConfig(**{name: value}).chosen == {name: value}
            assert conventions_of(ConventionsConfig(**{name: value}).model_dump()) == Conventions(**{name: value})


@given(
    base=st.sampled_from(["defined", "open_unlearning"]),
    chosen=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(both) for name, both in (DEPARTURES | OTHERS).items()}
    ),
)
def test_what_is_told_beside_the_base_is_what_differs(base: str, chosen: dict[str, Any]) -> None:
    told, differing = told_choices({"base": base, **chosen})
    made = conventions_of({"base": base, **chosen})
    assert (told, made) == (base, conventions_of({"base": base, **dict(differing)}))
    assert (not differing) == (made == conventions_of(base))
    if base == "defined" and not differing:
        assert made.told() == DEFINED.told()
