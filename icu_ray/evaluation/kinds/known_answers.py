"""Rows whose answer is known: how likely a model finds it, and what the model says instead.

The model's side of the field's benchmarks (evaluation/benchmarks/tasks.py is the task's side). One teacher-forced
forward a distinct row tells all that probability, truth ratio, memorisation and membership need, but for the norm of a
row's gradient, which takes a backward of its own; what is said greedily is for ROUGE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from icu_ray.errors import UserError
from icu_ray.evaluation.model_requests import Answer, Measure, Request
from icu_ray.metrics.answers import AnswerRow, AnswerScores
from icu_ray.metrics.conventions import Conventions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SureTokens: TypeAlias = dict[AnswerRow, int]
"""How many of a row's scored tokens one model says for sure, one after the other."""


def answer_known(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    measure: Measure,
    positions: int,
    sure: SureTokens,
) -> list[Answer]:
    """How likely each request's tokens are after its given ones. positions: what the model can read at one time. sure:
    learns of each row how many of its tokens are said for sure."""
    from icu_ray.data.specials import specials_of
    from icu_ray.metrics.answer_scores import answer_scores
    from icu_ray.metrics.sure_tokens import sure_tokens

    rows = _rows(requests, positions)
    pad = specials_of(tokenizer).pad_id
    found = answer_scores(
        model,
        rows,
        conventions=Conventions(mask=measure.mask),
        pad_id=pad,
        in_detail=[request.detail for request in requests],
    )
    if measure.mask == "length":
        sure.update(zip(rows, map(sure_tokens, found), strict=True))
    return [
        Answer(
            float(scores.log_probs.sum()),
            len(scores),
            bool(scores.matches.all()),
            scores=_packed(scores) if request.detail else None,
        )
        for request, scores in zip(requests, found, strict=True)
    ]


def _rows(requests: Sequence[Request], positions: int) -> list[AnswerRow]:
    """UserError for one that a model with so many positions cannot read."""
    longest = max((len(request.tokens) for request in requests), default=0)
    if longest > positions:
        raise UserError(f"a row has {longest} tokens, and this model reads only {positions}")
    return [AnswerRow.after(request.tokens, request.given) for request in requests]


def answer_gradients(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    measure: Measure,
    positions: int,
) -> list[Answer]:
    """The norm of the gradient of the mean loss of each request's tokens after its given ones, None without any.

    NaN as log-likelihood, which is 0 else, where a norm is not finite. positions: as of answer_known.
    """
    from icu_ray.data.specials import specials_of
    from icu_ray.metrics.membership import gradient_norms

    # All tokens of a request count: the task has left out those that do not.
    by = Conventions(membership_tail="eos", mask=measure.mask, gradient_mode=measure.mode)
    pad = specials_of(tokenizer).pad_id
    norms = gradient_norms(model, _rows(requests, positions), None, conventions=by, pad_id=pad)
    found = []
    for request, norm in zip(requests, norms.tolist(), strict=True):
        tokens = max(0, len(request.tokens) - request.given)
        broken = tokens > 0 and not np.isfinite(norm)
        found.append(Answer(float("nan") if broken else 0.0, tokens, norm=norm if tokens and not broken else None))
    return found


def _packed(scores: AnswerScores) -> tuple[tuple[float, bool, float, float], ...]:
    columns = (scores.log_probs.tolist(), scores.matches.tolist(), scores.means.tolist(), scores.variances.tolist())
    return tuple(zip(*columns, strict=True))


def unpacked(request: Request, answer: Answer) -> AnswerScores:
    """The scores that an answer carries. ValueError for one that was not asked for in detail."""
    if answer.scores is None:
        raise ValueError("this request was not asked for in detail")
    tokens = np.asarray(request.tokens[request.given :], dtype=np.int64)
    table = np.asarray(answer.scores, dtype=np.float64).reshape(len(tokens), 4)
    return AnswerScores(tokens, table[:, 0], table[:, 1] != 0, table[:, 2], table[:, 3])


def answer_greedily(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    measure: Measure,
    positions: int,
    sure: SureTokens,
) -> list[Answer]:
    """What the model says after each request's tokens, up to an end of text or a stop word.

    A request's likely tokens are read in one forward first, if `sure` does not know them, and what of them the model
    says is not generated again.
    NaN as log-likelihood, which is 0 else, where the model's scores are not finite. UserError for a prompt that leaves
    no place for an answer in the model's positions.
    """
    from icu_ray.data.prompts import special_ids
    from icu_ray.data.specials import specials_of
    from icu_ray.metrics.rouge import greedy_answers
    from icu_ray.metrics.sure_tokens import surely_said

    longest = max((len(request.tokens) for request in requests), default=0)
    if longest + measure.max_new_tokens > positions:
        raise UserError(
            f"a prompt has {longest} tokens, and its answer may have {measure.max_new_tokens}: this model reads only "
            f"{positions}, and a shorter answer would count as forgotten"
        )
    specials = specials_of(tokenizer)
    ends = {token for token in (specials.eos_id, tokenizer.eos_token_id) if token is not None}
    prompts = [request.tokens for request in requests]
    likely = [request.likely for request in requests]
    masked = specials.pad_id if measure.mask == "pad_id" else None
    said = greedy_answers(
        model,
        tokenizer,
        prompts,
        openings=surely_said(model, prompts, likely, masked, sure, measure.max_new_tokens),
        max_new_tokens=measure.max_new_tokens,
        ends=ends | special_ids(tokenizer) if measure.ends == "turn" else ends,
        pad_id=specials.pad_id,
        masked=masked,
        stop_words=measure.stop,
    )
    return [Answer(0.0 if text is not None else float("nan"), 0, text=text or "") for text in said]
