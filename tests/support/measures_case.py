"""Rows, models and expected numbers of ../shared/oracles/C, read for the measures of the field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from icu_ray.metrics.answer_scores import answer_scores
from icu_ray.metrics.answers import AnswerRow, AnswerScores, Floats, avg_losses
from icu_ray.metrics.conventions import Conventions
from icu_ray.metrics.rouge import greedy_answers

EOS = 1
OU = Conventions.open_unlearning()
MODELS = ("target", "retain", "unlearned")
SETS = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
"""Names of the sets of questions in rows.json and in metrics.json."""
STOP_WORDS = ("\n\n", "\nQuestion", "Question:")


@dataclass(frozen=True)
class Answers:
    """Scores of one set's rows: the answers, the paraphrased ones (the answer itself where there is none), the wrong
    ones row by row."""

    right: list[AnswerScores]
    paraphrased: list[AnswerScores]
    wrong: list[list[AnswerScores]]

    @property
    def wrong_losses(self) -> list[Floats]:
        return [avg_losses(each) for each in self.wrong]


class Oracle:
    """Set C. What is measured of a model is measured once."""

    def __init__(self, folder: Path) -> None:
        self.rows, self.metrics, self.edges = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("rows", "metrics", "edge_cases")
        )
        self.folder = folder
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        self.model = cache(self._model)
        self.double = cache(lambda name: self._model(name).double())
        self.answers = cache(self._answers)
        self.texts = cache(self._texts)
        self.said = cache(self._said)

    def _model(self, name: str) -> PreTrainedModel:
        return LlamaForCausalLM.from_pretrained(self.folder / "models" / name, dtype=torch.float32).eval()

    def expected(self, model: str) -> dict[str, Any]:
        found: dict[str, Any] = self.metrics["models"][model]
        return found

    def set_rows(self, name: str, part: str = "answer_enc") -> list[AnswerRow]:
        return [row_of(each[part]) for each in self.rows["sets"][name]]

    def _answers(self, model: str, name: str) -> Answers:
        """All rows of a set in one call, as the measures are meant to be read."""
        right = self.set_rows(name)
        with_paraphrases = "paraphrased_enc" in self.rows["sets"][name][0]
        paraphrased = self.set_rows(name, "paraphrased_enc") if with_paraphrases else right
        wrong = [[row_of(one) for one in each.get("perturbed_enc", ())] for each in self.rows["sets"][name]]
        rows = [*right, *paraphrased, *(one for each in wrong for one in each)]
        scores = iter(answer_scores(self.model(model), rows, conventions=OU, pad_id=2))
        return Answers(
            [next(scores) for _ in right],
            [next(scores) for _ in paraphrased],
            [[next(scores) for _ in w] for w in wrong],
        )

    def halves(self) -> list[tuple[str, str]]:
        """The MUSE-shaped texts that are completed: first and second half of question and answer."""
        found = []
        for row in self.rows["sets"]["forget"][:8]:
            words = f"{row['question']} {row['answer']}".split(" ")
            found.append((" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])))
        return found

    def completions(self) -> list[AnswerRow]:
        """Their second halves as answers to the first, without an end of sequence."""
        return [
            AnswerRow.after(self.tokenizer(f"{first} {second}")["input_ids"], len(self.tokenizer(first)["input_ids"]))
            for first, second in self.halves()
        ]

    def whole_texts(self, name: str) -> list[AnswerRow]:
        """The first 8 rows of a set as texts of which all but the first token are scored."""
        texts = [f"{row['question']} {row['answer']}" for row in self.rows["sets"][name][:8]]
        return [AnswerRow.after(self.tokenizer(text)["input_ids"], 1) for text in texts]

    def _texts(self, model: str, kind: str) -> list[AnswerScores]:
        rows = self.completions() if kind == "completions" else self.whole_texts(kind)
        return answer_scores(self.model(model), rows, conventions=OU, pad_id=2)

    def few_shot(self) -> list[list[int]]:
        """Prompts by tags with two questions and answers before each."""
        shots = "".join(
            f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in self.rows["sets"]["retain"][:2]
        )
        asked = [f"{shots}Question: {row['question']}\nAnswer: " for row in self.rows["sets"]["forget"][:8]]
        return [self.tokenizer(text)["input_ids"] for text in asked]

    def prompts(self, kind: str) -> list[list[int]]:
        if kind == "muse_verbmem":
            return [self.tokenizer(first)["input_ids"] for first, _ in self.halves()]
        if kind == "muse_knowmem":
            return self.few_shot()
        if kind == "forget_parap_question":
            encoded = [row["paraphrased_question_enc"] for row in self.rows["sets"]["forget"]]
            return [each["ids"][: each["n_masked"]] for each in encoded]
        return [row["prompt_ids"] for row in self.rows["sets"][kind]]

    def _said(self, model: str, kind: str, with_openings: bool) -> list[str | None]:
        """The greedy answers to a kind of prompts."""
        tokens = {"muse_verbmem": 128, "muse_knowmem": 32}.get(kind, 200)
        openings = [each.copied for each in self.answers(model, kind).right] if with_openings else None
        return greedy_answers(
            self.model(model),
            self.tokenizer,
            self.prompts(kind),
            max_new_tokens=tokens,
            ends={EOS},
            pad_id=2,
            stop_words=STOP_WORDS if kind == "muse_knowmem" else (),
            openings=openings,
        )


def row_of(encoded: dict[str, Any]) -> AnswerRow:
    """A row of rows.json or edge_cases.json."""
    return AnswerRow.after(encoded["ids"], encoded["n_masked"])
