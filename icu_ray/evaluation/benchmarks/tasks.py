"""A benchmark's sets of prompts as tasks: what a model is asked of each row, and the numbers of its answers.

    names = task_names(asked)                      # asked: BenchmarkAsked(section, form, conventions)
    source = benchmark_task(names[0], asked)

A set is one task for all that a teacher-forced forward gives, a second one (`..._said`) for what the model says, and
where it is asked for a third (`..._gradnorm`) for the norms of its rows' gradients, which take a backward each. What is
asked more of one leaves the others as they were evaluated.
The metrics bear OpenUnlearning's names after the benchmark's: tofu/forget_Q_A_Prob. Numbers that need two sets or
another model (model utility, membership, forget quality, privleak) are made of these tasks' documents: derived.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from icu_ray.config import RowForm
from icu_ray.data.prompt_styles import STYLES, PromptRow, PromptStyle, completion_rows, prompt_rows, style_of
from icu_ray.data.prompts import special_ids
from icu_ray.evaluation.benchmarks.definition import PromptSet
from icu_ray.evaluation.benchmarks.rows import Section, benchmark_of, set_rows, sets_of, shots_of
from icu_ray.evaluation.kinds.known_answers import unpacked
from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.evaluation.task import DocumentScore, Scores, Task, TaskSource, by_document
from icu_ray.metrics.answers import (
    AnswerScores,
    Floats,
    avg_losses,
    count_without_tail,
    exact_memorization,
    extraction_strength,
    mean_of,
    normalised_probabilities,
    probabilities,
    truth_ratio_scores,
    truth_ratios,
)
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.metrics.membership import min_k_plus_plus_scores, min_k_scores, zlib_scores
from icu_ray.storage.store import JsonValue, content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAID = "_said"
"""Ends the name of a set's task that has models speak."""
GRADIENT = "_gradnorm"
"""Ends the name of a set's task that takes gradients."""
EXTRACTION = "extraction_strength"
NO_END = "no end"
"""Marks a request whose last token ends neither a text nor a turn."""
_VERSION, _CUT_VERSION = 1, 2
"""Of the rows' writing; the second one of sets whose rows may be cut, which has changed since."""
_SHORT: Mapping[str, str] = {"real_authors": "ra", "world_facts": "wf"}
"""What OpenUnlearning's metrics call a set, where that is another word."""
_IN_DETAIL = frozenset(
    {"exact_memorisation", "extraction_strength", "mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus"}
)
_BY_ROUGE = frozenset({"rouge_recall", "rouge_f1"})
_BY_GRADIENT = frozenset({"mia_gradnorm"})


@dataclass(frozen=True)
class BenchmarkAsked:
    """section: what a config says of the benchmark. form: how its rows are written for the models. conventions: of the
    measures. membership: attacks beside those of the benchmark's own table, by which its members and non-members are
    told apart (evaluation.membership). paraphrased: whether questions are asked in other words too."""

    section: Section
    form: RowForm
    conventions: Conventions = DEFINED
    membership: tuple[str, ...] = ()
    paraphrased: bool = False

    @property
    def name(self) -> str:
        """Of the benchmark."""
        return benchmark_of(self.section).name

    @property
    def sets(self) -> tuple[PromptSet, ...]:
        """Its sets with all that is asked of them."""
        more = tuple(f"mia_{attack}" for attack in self.membership)
        known = sets_of(self.section)
        usual = tuple(
            each if each.members is None else replace(each, measures=tuple(dict.fromkeys((*each.measures, *more))))  # type: ignore[arg-type]
            for each in known
        )
        return (*usual, *(other for each in known if self.paraphrased and (other := each.paraphrased)))

    def style(self, asked: PromptSet) -> PromptStyle:
        """How a set's questions are written."""
        style = style_of(self.form) if asked.style is None else STYLES[asked.style]
        return replace(style, max_length=asked.max_length, begin=asked.begin, conventions=self.conventions.rows)


def task_names(asked: BenchmarkAsked) -> tuple[str, ...]:
    """Of all its sets, in their order."""
    found = []
    for each in asked.sets:
        if not set(each.measures) <= _BY_ROUGE | _BY_GRADIENT:
            found.append(f"{asked.name}_{each.name}")
        if _BY_ROUGE & set(each.measures):
            found.append(f"{asked.name}_{each.name}{SAID}")
        if _BY_GRADIENT & set(each.measures):
            found.append(f"{asked.name}_{each.name}{GRADIENT}")
    return tuple(found)


def set_of(name: str, asked: BenchmarkAsked) -> tuple[PromptSet, str]:
    """The set of a name of `task_names`, with what that task measures alone, and how the name ends: '', SAID or
    GRADIENT."""
    of, kind = next(
        (each, kind)
        for each in asked.sets
        for kind in ("", SAID, GRADIENT)
        if name == f"{asked.name}_{each.name}{kind}"
    )
    if kind == GRADIENT:
        return replace(of, measures=("mia_gradnorm",)), kind
    return replace(of, measures=tuple(each for each in of.measures if each not in _BY_GRADIENT)), kind


def benchmark_task(
    name: str, asked: BenchmarkAsked, limit: int | None = None, longest: int | None = None
) -> TaskSource:
    """The task of a name of `task_names`, of its first `limit` rows; longest: of so many of these with most letters.

    UserError where its rows cannot be read.
    """
    of, kind = set_of(name, asked)
    rows, shots = _rows(asked.section, of)
    rows = rows[:limit]
    if longest is not None:
        rows = sorted(rows, key=lambda row: -sum(len(str(value)) for value in row.values()))[:longest]
    identity: dict[str, JsonValue] = {
        "benchmark": asked.name,
        "set": of.name,
        "version": _CUT_VERSION if of.shots or of.kind != "questions" else _VERSION,
        "rows": content_hash([[dict(row) for row in rows], [list(shot) for shot in shots]]),
        "style": content_hash(asdict(asked.style(of))),
        "ask": of.ask,
        "measures": list(of.measures),
        "conventions": content_hash(asked.conventions.told()),
    }
    if of.generation is not None and kind == SAID:
        identity["generation"] = [of.generation.new_tokens, *of.generation.stop]
    make = {"": _known_task, SAID: _said_task, GRADIENT: _gradient_task}[kind]
    return TaskSource(name, identity, lambda: make(name, asked, of, rows, shots))


@functools.lru_cache(maxsize=64)
def _rows(section: Section, of: PromptSet) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Read once a process, for the plan asks for them, and then the stage."""
    return set_rows(section, of), shots_of(section, of)


def _written(
    pairs: Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    asked: BenchmarkAsked,
    of: PromptSet,
    shots: Sequence[tuple[str, str]],
) -> list[PromptRow]:
    if of.kind == "questions":
        return prompt_rows([(of.ask.format(q), a) for q, a in pairs], tokenizer, asked.style(of), shots)
    by = asked.style(of).conventions
    return completion_rows(pairs, tokenizer, of.max_length, conventions=by)


def _known_task(
    name: str,
    asked: BenchmarkAsked,
    of: PromptSet,
    rows: Sequence[Mapping[str, Any]],
    shots: Sequence[tuple[str, str]],
) -> Task:
    """How likely each row's answer is, the right one that the truth ratio compares, and each wrong one."""
    detail = bool(_IN_DETAIL & set(of.measures))

    def answers_of(row: Mapping[str, Any]) -> list[str]:
        right = [row[of.right]] if of.right not in (None, of.answer) else []
        return [row[of.answer], *right, *(row[of.wrong] if of.wrong else ())]

    def ask(tokenizer: PreTrainedTokenizerBase) -> tuple[Request, ...]:
        known = [
            (number, row, place, answer)
            for number, row in enumerate(rows)
            for place, answer in enumerate(answers_of(row))
        ]
        pairs = [(row[of.prompt] if of.prompt else "", answer) for _, row, _, answer in known]
        written = _written(pairs, tokenizer, asked, of, shots)
        ends = special_ids(tokenizer)
        return tuple(
            Request(
                number,
                context="" if row.ids[-1] in ends else NO_END,
                target=str(tokenizer.decode(list(row.ids[row.masked :]), skip_special_tokens=True)),
                tokens=row.ids,
                given=row.masked,
                detail=detail and place == 0,
            )
            for (number, _, place, _), row in zip(known, written, strict=True)
        )

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        documents = by_document(requests, answers)
        losses = [
            [-a.loglikelihood / a.tokens if a.tokens else float("nan") for _, a in documents[number]]
            for number in range(len(rows))
        ]
        columns: dict[str, Floats] = {"avg_loss": np.asarray([each[0] for each in losses])}
        columns |= _of_losses(of, losses, asked.conventions)
        if detail:
            firsts = [documents[number][0] for number in range(len(rows))]
            columns |= _of_tokens(of, firsts, asked.conventions)
        scored = tuple(
            DocumentScore(
                number,
                str(rows[number][of.answer]),
                "",
                tuple(answer.loglikelihood for _, answer in documents[number]),
                {key: float(values[number]) for key, values in columns.items() if not np.isnan(values[number])},
                str(rows[number][of.prompt]) if of.prompt else "",
            )
            for number in range(len(rows))
        )
        means = _means(of, columns)
        if asked.conventions.unmeasured == "nan":
            skipped = ("exact_memorization", EXTRACTION)  # which leave out such a row, or count it as `empty` says
            means = {name: each for name, each in means.items() if name in skipped or not np.isnan(each).any()}
        return Scores(_named(asked.name, means), scored)

    return Task(name, len(rows), Measure("answer", mask=asked.conventions.mask), ask, score)


def _gradient_task(
    name: str,
    asked: BenchmarkAsked,
    of: PromptSet,
    rows: Sequence[Mapping[str, Any]],
    shots: Sequence[tuple[str, str]],
) -> Task:
    """The norm of the gradient of each row's answer."""
    by = asked.conventions

    def ask(tokenizer: PreTrainedTokenizerBase) -> tuple[Request, ...]:
        pairs = [(row[of.prompt] if of.prompt else "", row[of.answer]) for row in rows]
        written = _written(pairs, tokenizer, asked, of, shots)
        ends = special_ids(tokenizer)
        requests = []
        for number, row in enumerate(written):
            own = row.ids[row.masked :]
            end = row.ids[-1] if row.ids[-1] in ends else None
            # What does not count is at the end, where nothing that counts sees it: it need not be read.
            counted = count_without_tail(own, by.membership_tail, end)
            requests.append(Request(number, tokens=row.ids[: row.masked + counted], given=row.masked))
        return tuple(requests)

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        documents = tuple(
            DocumentScore(
                request.document,
                str(rows[request.document][of.answer]),
                "",
                metrics={} if answer.norm is None else {"mia_gradnorm": answer.norm},
            )
            for request, answer in zip(requests, answers, strict=True)
        )
        return Scores({}, documents)

    return Task(name, len(rows), Measure("gradient", mask=by.mask, mode=by.gradient_mode), ask, score)


def _of_losses(of: PromptSet, losses: Sequence[Sequence[float]], conventions: Conventions) -> dict[str, Floats]:
    """What follows from the losses of a row's answers: its own, the right one, the wrong ones."""
    own = np.asarray([each[0] for each in losses])
    found = {"prob": probabilities(own)}
    if of.wrong is None:
        return found
    first = 1 if of.right in (None, of.answer) else 2
    right = own if first == 1 else np.asarray([each[1] for each in losses])
    wrong = [np.asarray(each[first:]) for each in losses]
    if "probability_normalised" in of.measures:
        found["prob_normalised"] = normalised_probabilities(own, wrong)
    if "truth_ratio" in of.measures:
        found["prob_right"] = probabilities(right)
        found["prob_wrong"] = np.asarray([float(probabilities(each).mean()) for each in wrong])
        found["truth_ratio_raw"] = truth_ratios(right, wrong, conventions)
        kind = "forget" if of.forgotten else "retain"
        found["truth_ratio"] = truth_ratio_scores(right, wrong, kind, conventions)  # type: ignore[arg-type]
    return found


def _of_tokens(of: PromptSet, firsts: Sequence[tuple[Request, Answer]], conventions: Conventions) -> dict[str, Floats]:
    """What needs each token of a row's answer."""
    rows: list[tuple[AnswerScores, int | None]] = []
    for request, answer in firsts:
        # What does not count is the end of a text or a turn, which a row has unless it is cut.
        rows.append((unpacked(request, answer), None if request.context == NO_END else request.tokens[-1]))

    def each(measure: Any) -> Floats:
        return np.asarray([float(measure([scores], end, conventions=conventions)[0]) for scores, end in rows])

    losses = avg_losses([scores for scores, _ in rows])
    made: dict[str, Any] = {
        "exact_memorisation": lambda: each(exact_memorization),
        "extraction_strength": lambda: each(extraction_strength),
        "mia_loss": lambda: losses,
        "mia_zlib": lambda: zlib_scores(losses, [request.target for request, _ in firsts]),
        "mia_min_k": lambda: each(min_k_scores),
        "mia_min_k_plus_plus": lambda: each(min_k_plus_plus_scores),
    }
    return {measure: made[measure]() for measure in of.measures if measure in made}


def metric_names(of: PromptSet) -> dict[str, str]:
    """What OpenUnlearning calls the aggregate of each column of a set's documents."""
    short = _SHORT.get(of.name, of.name)
    return {
        "prob": f"{short}_Q_A_Prob",
        "prob_normalised": f"{short}_Q_A_Prob_normalised",
        "prob_right": f"{short}_Q_A_PARA_Prob",
        "prob_wrong": f"{short}_Q_A_PERT_Prob",
        "truth_ratio": f"{short}_Truth_Ratio",
        "exact_memorisation": "exact_memorization",
        "extraction_strength": EXTRACTION,
        "rouge": f"{short}_Q_A_ROUGE" if "rouge_recall" in of.measures else f"{short}_ROUGE",
    }


def _means(of: PromptSet, columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """The aggregates of a set, by OpenUnlearning's names, as the values that they are means of."""
    names = metric_names(of)
    asked = {"prob": "probability" in of.measures or "probability_normalised" in of.measures}
    return {name: columns[key] for key, name in names.items() if key in columns and asked.get(key, True)}


def _named(benchmark: str, values: Mapping[str, Floats]) -> dict[str, float]:
    """Means by their full names; what no row could be measured of is left out."""
    means = {f"{benchmark}/{name}": mean_of(each).value for name, each in values.items()}
    return {name: value for name, value in means.items() if value is not None}


def _after_prompt(row: PromptRow) -> tuple[int, ...]:
    """The tokens with which a row goes on from what the model is asked; () where it does not begin so."""
    begins = row.ids[: len(row.prompt_ids)] == row.prompt_ids
    return row.ids[len(row.prompt_ids) :] if begins else ()


def _said_task(
    name: str,
    asked: BenchmarkAsked,
    of: PromptSet,
    rows: Sequence[Mapping[str, Any]],
    shots: Sequence[tuple[str, str]],
) -> Task:
    """What the model says after each prompt, and how much of the answer that is."""
    assert of.generation is not None
    turns = of.kind == "questions" and asked.style(of).chat and asked.conventions.generation_end == "turn"
    measure = Measure(
        "greedy",
        max_new_tokens=of.generation.new_tokens,
        stop=of.generation.stop,
        mask=asked.conventions.mask,
        ends="turn" if turns else "text",
    )

    def ask(tokenizer: PreTrainedTokenizerBase) -> tuple[Request, ...]:
        pairs = [(row[of.prompt], row[of.answer]) for row in rows]
        written = _written(pairs, tokenizer, asked, of, shots)
        return tuple(
            Request(number, target=pair[1].strip(), tokens=row.prompt_ids, likely=_after_prompt(row))
            for number, (pair, row) in enumerate(zip(pairs, written, strict=True))
        )

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        from icu_ray.metrics.rouge import rouge_scores  # imports torch, which naming a task does not

        found = rouge_scores([a.text for a in answers], [r.target for r in requests], asked.conventions)
        recall = "rouge_recall" in of.measures
        values = found.rougeL_recall if recall else found.rougeL_f1
        documents = tuple(
            DocumentScore(
                request.document,
                request.target,
                answer.text,
                metrics={"rouge": float(value)},
                prompt=str(rows[request.document][of.prompt]),
            )
            for request, answer, value in zip(requests, answers, values, strict=True)
        )
        return Scores(_named(asked.name, {metric_names(of)["rouge"]: values}), documents)

    return Task(name, len(rows), measure, ask, score)
