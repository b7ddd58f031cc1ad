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
from transformers import PreTrainedTokenizerFast

from icu_ray.config import TofuData
from icu_ray.config.file import resolve_config
from icu_ray.evaluation.benchmarks.tasks import BenchmarkAsked, benchmark_task
from icu_ray.evaluation.model_requests import Answer
from icu_ray.evaluation.sweep_tasks import sweep_tasks
from icu_ray.metrics import membership
from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import AnswerRow, AnswerScores, exact_memorization, extraction_strength, truth_ratios
from icu_ray.metrics.conventions import LATER, Conventions
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


def test_a_config_asks_for_all_of_them(tmp_path: Path) -> None:
    data = {"source": "tofu", "split": "forget01", "template": "question-answer", "folder": str(tofu_folder(tmp_path))}
    for name, by in (("defined", Conventions()), ("open_unlearning", Conventions.open_unlearning())):
        evaluation = {"suites": ["benchmark"], "conventions": name}
        models = [{"name": "a", "standin": {"size": "small"}}]
        _, options = sweep_tasks(
            resolve_config({"name": "t", "data": data, "models": models, "evaluation": evaluation}, "t")
        )
        assert options.benchmark is not None and options.benchmark.conventions == by
