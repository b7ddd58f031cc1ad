"""What a task is to the rest of the package: requests for any model, and scores from its answers.

`TaskSource` is a task by name that has not read its documents yet: its identity is enough to find in the store what
was evaluated before. `Task` is one that has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.storage.store import JsonValue

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class DocumentScore:
    """One document. target: what was wanted. said: what the model chose or generated. metrics: by short name.

    prompt: what was asked, '' where a task does not say it, or an earlier version wrote the document.
    """

    document: int
    target: str
    said: str
    loglikelihoods: tuple[float, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    prompt: str = ""


@dataclass(frozen=True)
class Scores:
    """A task's result. metrics: by full name, such as cls/hellaswag_acc; fractions, perplexities as they are."""

    metrics: Mapping[str, float]
    documents: tuple[DocumentScore, ...]


@dataclass(frozen=True)
class Task:
    """documents: how many. ask: all requests in document order; windows of tokens differ by tokenizer, others do not.
    score: from the answers to exactly these requests."""

    name: str
    documents: int
    measure: Measure
    ask: Callable[[PreTrainedTokenizerBase], tuple[Request, ...]]
    score: Callable[[Sequence[Request], Sequence[Answer]], Scores]


@dataclass(frozen=True)
class TaskSource:
    """identity: the plain values that decide documents, requests and scores."""

    name: str
    identity: Mapping[str, JsonValue]
    load: Callable[[], Task]


def by_document(requests: Sequence[Request], answers: Sequence[Answer]) -> dict[int, list[tuple[Request, Answer]]]:
    """Requests and answers of each document, in order."""
    found: dict[int, list[tuple[Request, Answer]]] = {}
    for request, answer in zip(requests, answers, strict=True):
        found.setdefault(request.document, []).append((request, answer))
    return found
