"""Answers back into the harness: its filters, its judgement of each document, its aggregates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.evaluation.task import DocumentScore, Scores, by_document

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import ConfigurableTask

_FAMILIES: Mapping[str, str] = {"loglikelihood_rolling": "ppl", "generate_until": "gen"}


def score_documents(
    harness: ConfigurableTask,
    name: str,
    measure: Measure,
    asked: Sequence[Sequence[Instance]],
    requests: Sequence[Request],
    answers: Sequence[Answer],
) -> Scores:
    """Each document judged by the harness's task, and its aggregates.

    asked: the harness's requests of each document, whose answers these are.
    """
    groups = by_document(requests, answers)
    for number, instances in enumerate(asked):
        for instance, (_, answer) in zip(instances, groups[number], strict=True):
            instance.resps = [_response(measure, answer)]
            instance.filtered_resps = {}
    for ensemble in harness._filters:
        ensemble.apply([instance for instances in asked for instance in instances])
    values: dict[str, list[Any]] = {}
    documents = []
    for number, instances in enumerate(asked):
        shown: dict[str, float] = {}
        for key in instances[0].filtered_resps:
            results = [instance.filtered_resps[key] for instance in instances]
            for metric, value in harness.process_results(instances[0].doc, results).items():
                full = metric if key == "none" else f"{metric}_{key}"
                values.setdefault(full, []).append(value)
                if isinstance(value, int | float):
                    shown[full] = float(value)
        documents.append(_document(harness, number, instances, groups[number], shown))
    family = _FAMILIES.get(str(harness.OUTPUT_TYPE), "cls")
    metrics = {f"{family}/{name}_{full}": _aggregate(harness, full, some) for full, some in values.items()}
    return Scores(metrics, tuple(documents))


def _response(measure: Measure, answer: Answer) -> Any:
    if measure.kind == "rolling":
        return answer.loglikelihood
    if measure.kind == "harness_generation":
        return answer.text
    scored = (answer.loglikelihood, answer.greedy)
    return (*scored, answer.text) if measure.greedy_text else scored


def _aggregate(harness: ConfigurableTask, metric: str, values: Sequence[Any]) -> float:
    known = harness.aggregation()
    found = known.get(metric) or known.get(metric.rpartition("_")[0])
    try:
        return float(found(values)) if found is not None else sum(values) / len(values)
    except OverflowError:  # exp of a collapsed model's log-likelihood
        return float("inf")


def _document(
    harness: ConfigurableTask,
    number: int,
    instances: Sequence[Instance],
    group: Sequence[tuple[Request, Answer]],
    metrics: Mapping[str, float],
) -> DocumentScore:
    doc = instances[0].doc
    values = tuple(answer.loglikelihood for _, answer in group)
    if harness.OUTPUT_TYPE != "multiple_choice":
        return DocumentScore(number, str(harness.doc_to_target(doc)), group[0][1].text, values, metrics)
    choices = harness.doc_to_choice(doc)
    gold = harness.doc_to_text(doc) if harness.multiple_input else harness.doc_to_target(doc)
    target = choices[gold] if isinstance(gold, int) else str(gold)
    best = max(range(len(choices)), key=lambda at: values[at])
    return DocumentScore(number, target, choices[best], values, metrics)
