"""What a model is asked and what it answers: plain values that travel to the actors and lie in the store.

A task is documents; a document asks one request or several (a multiple choice: one for each candidate); a slice is a
run of whole documents that one actor answers at a time. What decides the answers is in the slice's key: the requests,
how they are measured, and the model. Neither torch nor Ray is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from icu_ray.storage.store import JsonValue, content_hash

VERSION = 1
"""Raised when the measuring of requests changes, so that stored answers are not taken for the new ones."""
SLICE_REQUESTS = 256
"""A slice ends with the document that brings it to this many requests. Part of no key, but batches are made inside a
slice, so that another number may change the last bits of a log-likelihood."""

_ASKED_TOGETHER = ("answer", "greedy")

Kind = Literal["loglikelihood", "rolling", "window", "generation", "harness_generation", "answer", "greedy", "gradient"]


@dataclass(frozen=True)
class Measure:
    """How the requests of a task are answered.

    kind: loglikelihood of `target` after `context`; rolling: of a whole text; window: of `tokens` after the first one;
    generation: greedy text after `context`; harness_generation: as lm-eval's HFLM generates, `target` holding the
    JSON of its settings; answer: of `tokens`, all but the first `given` ones; greedy: greedy text after `tokens`;
    gradient: norm of the gradient of the mean loss of `tokens`, all but the first `given` ones, by a backward a row.
    encoding: joint, the harness's (context and target tokenised together); separate, the authors'.
    max_length: tokens that are read at one time; None: as many as the model has positions.
    keep: which part of a context that is too long is kept. greedy_text: whether answers carry the greedy tokens' text.
    stop: (greedy) texts at which what is said ends. mask: (answer, greedy) what attention does not see, as
    metrics/conventions; so for gradient. ends: (greedy) tokens at which it ends: the end of text, or any that ends a
    turn of a chat. mode: (gradient) of the model; in train mode dropout is active, from one seed for every row.
    """

    kind: Kind
    encoding: Literal["joint", "separate"] = "joint"
    max_length: int | None = None
    keep: Literal["end", "start"] = "end"
    max_new_tokens: int = 0
    greedy_text: bool = False
    stop: tuple[str, ...] = ()
    mask: Literal["length", "pad_id"] = "length"
    ends: Literal["text", "turn"] = "text"
    mode: Literal["eval", "train"] = "eval"

    def key(self) -> dict[str, JsonValue]:
        """As a part of store keys; what came later is told where it is set alone."""
        known: dict[str, JsonValue] = {**asdict(self), "stop": list(self.stop)}
        unset: dict[str, JsonValue] = {"stop": [], "mask": "length", "ends": "text", "mode": "eval"}
        return {name: value for name, value in known.items() if name not in unset or value != unset[name]}


@dataclass(frozen=True)
class Request:
    """One question. document: its number in the task. tokens: ids in the model's vocabulary, of windows, answers and
    what is continued greedily; `context` is then a remark. given: how many of the first tokens are not scored. detail:
    each token's scores are answered too. likely: what may well be said after `tokens`; it makes the answer faster where
    it is, changes none, and is in no key."""

    document: int
    context: str = ""
    target: str = ""
    tokens: tuple[int, ...] = ()
    given: int = 0
    detail: bool = False
    likely: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answer:
    """loglikelihood: summed over `tokens` tokens, in nats; 0 for generations. greedy: whether every token was the most
    likely one. text: what was generated, or the greedy tokens' text. scores: where asked for in detail, of each scored
    token its log-probability, whether it is the most likely one, and mean and variance of the log-probabilities of all
    tokens. norm: of the gradient, where that is asked for and there are tokens."""

    loglikelihood: float
    tokens: int
    greedy: bool = False
    text: str = ""
    scores: tuple[tuple[float, bool, float, float], ...] | None = None
    norm: float | None = None


@dataclass(frozen=True)
class Slice:
    """Whole documents of one task, in order."""

    measure: Measure
    requests: tuple[Request, ...]

    def key(self, model_hash: str, precision: str) -> dict[str, JsonValue]:
        """Store key of this slice's answers by one model; where a slice starts in its task plays no part."""
        first = self.requests[0].document
        plain: list[JsonValue] = [
            [r.document - first, r.context, r.target, list(r.tokens), *([r.given, r.detail] if r.given else [])]
            for r in self.requests
        ]
        return {
            "version": VERSION,
            "model": model_hash,
            "precision": precision,
            "measure": self.measure.key(),
            "requests": content_hash(plain),
        }


def cut_slices(measure: Measure, requests: Sequence[Request], size: int = SLICE_REQUESTS) -> list[Slice]:
    """Slices of whole documents, each of at least `size` requests but the last."""
    slices: list[Slice] = []
    begin = 0
    for at in range(1, len(requests) + 1):
        document_ends = at == len(requests) or requests[at].document != requests[at - 1].document
        if document_ends and (at - begin >= size or at == len(requests)):
            slices.append(Slice(measure, tuple(requests[begin:at])))
            begin = at
    return slices


def slices_at_once(slices: Sequence[Slice]) -> list[list[int]]:
    """Places of slices that an actor answers in one call: small ones that are measured alike, whatever their tasks.

    They have at most SLICE_REQUESTS requests together, so that no more is lost with an actor, and are of kinds whose
    answers do not depend on what else is asked. What is generated comes last: the other answers tell how it begins.
    """
    calls: list[list[int]] = []
    open_calls: dict[Measure, tuple[list[int], int]] = {}
    for place, part in enumerate(slices):
        if part.measure.kind not in _ASKED_TOGETHER:
            calls.append([place])
            continue
        call, count = open_calls.get(part.measure, ([], SLICE_REQUESTS))
        if count + len(part.requests) > SLICE_REQUESTS:
            call, count = [], 0
            calls.append(call)
        call.append(place)
        open_calls[part.measure] = call, count + len(part.requests)
    return sorted(calls, key=lambda call: slices[call[0]].measure.kind == "greedy")


def dump_answers(answers: Sequence[Answer]) -> bytes:
    """JSON of answers; floats come back bit for bit, NaN and infinities included."""
    rows = [[a.loglikelihood, a.tokens, a.greedy, a.text, *_later(a)] for a in answers]
    return json.dumps(rows, ensure_ascii=True).encode("ascii")


def _later(answer: Answer) -> list[Any]:
    """What came later, as far as it is told."""
    if answer.norm is not None:
        return [answer.scores, answer.norm]
    return [] if answer.scores is None else [answer.scores]


def load_answers(data: bytes) -> tuple[Answer, ...]:
    """What `dump_answers` wrote."""
    return tuple(_answer(*row) for row in json.loads(data))


def _answer(
    loglikelihood: float,
    tokens: int,
    greedy: bool,
    text: str,
    scores: list[list[Any]] | None = None,
    norm: float | None = None,
) -> Answer:
    known = None if scores is None else tuple((float(p), bool(hit), float(m), float(v)) for p, hit, m, v in scores)
    return Answer(loglikelihood, tokens, greedy, text, known, norm)
