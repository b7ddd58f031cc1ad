"""Perplexity of texts, in the authors' windows and in the harness's rolling form (spec section 3).

`<name>_icu`: all documents joined by a blank line, cut into windows of 512 tokens without overlap; exp of the mean of
the windows' losses, so that a short last window weighs as much as a full one, and each window's first token is free.
`<name>_rolling`: every document by itself after a beginning-of-text token, every token scored once; exp of the mean
over all tokens, and over all words for `_word`. Token-level numbers of different tokenizers do not compare; words do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icu_ray.errors import UserError
from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.evaluation.rows.read_mirror import read_csv
from icu_ray.evaluation.task import DocumentScore, Scores, Task, TaskSource
from icu_ray.storage.store import JsonValue, file_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 512
_VERSION = 1


def perplexity_task(name: str, path: Path, limit: int | None) -> TaskSource:
    """`name` ends with _icu or _rolling; path: a CSV with a column `text`."""
    identity: dict[str, JsonValue] = {"perplexity": name, "version": _VERSION, "limit": limit, "rows": file_hash(path)}

    def load() -> Task:
        texts = [row["text"] for row in read_csv(path, ("text",))][:limit]
        return window_task(name, texts) if name.endswith("_icu") else rolling_task(name, texts)

    return TaskSource(name, identity, load)


def window_task(name: str, texts: Sequence[str]) -> Task:
    """The authors' form; documents of its result are windows."""

    def ask(tokenizer: PreTrainedTokenizerBase) -> tuple[Request, ...]:
        ids: list[int] = tokenizer("\n\n".join(texts), verbose=False)["input_ids"]
        # A last window of one token has nothing to predict; the authors' mean would be NaN.
        starts = [begin for begin in range(0, len(ids), WINDOW) if len(ids) - begin > 1]
        return tuple(Request(n, tokens=tuple(ids[begin : begin + WINDOW])) for n, begin in enumerate(starts))

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        losses = [-answer.loglikelihood / answer.tokens for answer in answers]
        rows = [
            DocumentScore(request.document, "", "", (answer.loglikelihood,), {"loss": loss})
            for request, answer, loss in zip(requests, answers, losses, strict=True)
        ]
        return Scores({f"ppl/{name}": exp_or_inf(sum(losses) / len(losses))}, tuple(rows))

    return Task(name, len(texts), Measure("window", max_length=WINDOW), ask, score)


def rolling_task(name: str, texts: Sequence[str]) -> Task:
    """The harness's form, as its tasks of output_type loglikelihood_rolling."""
    requests = tuple(Request(number, target=text) for number, text in enumerate(texts))

    def score(requests: Sequence[Request], answers: Sequence[Answer]) -> Scores:
        words = [len(re.split(r"\s+", request.target)) for request in requests]
        total = sum(answer.loglikelihood for answer in answers)
        rows = [
            DocumentScore(
                request.document, "", "", (a.loglikelihood,), {"tokens": float(a.tokens), "words": float(count)}
            )
            for request, a, count in zip(requests, answers, words, strict=True)
        ]
        metrics = {
            f"ppl/{name}": exp_or_inf(-total / sum(answer.tokens for answer in answers)),
            f"ppl/{name}_word": exp_or_inf(-total / sum(words)),
        }
        return Scores(metrics, tuple(rows))

    return Task(name, len(texts), Measure("rolling"), lambda tokenizer: requests, score)


def exp_or_inf(value: float) -> float:
    """exp without overflow; infinite for NaN, which only a broken model gives."""
    return math.inf if math.isnan(value) or value > 700 else math.exp(value)


def answer_windows(
    model: PreTrainedModel, requests: Sequence[Request], measure: Measure, positions: int
) -> list[Answer]:
    """Log-likelihood of each window's tokens after its first."""
    from icu_ray.evaluation.kinds.classification import Pair, score_pairs

    longest = max(len(request.tokens) for request in requests)
    if longest - 1 > positions:
        raise UserError(f"perplexity in windows of {measure.max_length} tokens: this model reads only {positions}")
    scored = score_pairs(model, [Pair([r.tokens[0]], list(r.tokens[1:])) for r in requests], longest)
    return [Answer(s.loglikelihood, len(r.tokens) - 1) for r, s in zip(requests, scored, strict=True)]


def answer_rolling(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], positions: int
) -> list[Answer]:
    """Log-likelihood of each whole text, in windows of `positions` tokens where it is longer."""
    from icu_ray.evaluation.kinds.classification import Encoder, Pair, prefix_token, score_pairs

    encoded = Encoder(tokenizer).encode([request.target for request in requests])
    prefix = prefix_token(tokenizer)
    pairs: list[Pair] = []
    owners: list[int] = []
    for owner, ids in enumerate(encoded):
        for begin in range(0, len(ids), positions):
            end = min(begin + positions, len(ids))
            # The last window reaches back as far as the model can read.
            context = ids[max(0, end - positions - 1) : begin] if begin else [prefix]
            pairs.append(Pair(context, ids[begin:end]))
            owners.append(owner)
    totals = [0.0] * len(requests)
    for owner, scored in zip(owners, score_pairs(model, pairs, positions), strict=True):
        totals[owner] += scored.loglikelihood
    return [Answer(total, len(ids)) for total, ids in zip(totals, encoded, strict=True)]
