"""A loaded model's answers to a slice, whatever its kind.

answers = answer_slice(loaded, part)             # in the order of part.requests
one, other = answer_slices(loaded, [part, more]) # the same for slices that are measured alike
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icu_ray.errors import UserError
from icu_ray.evaluation.kinds.classification import answer_loglikelihoods, positions_of
from icu_ray.evaluation.kinds.dialogue import answer_generations
from icu_ray.evaluation.kinds.known_answers import SureTokens, answer_gradients, answer_greedily, answer_known
from icu_ray.evaluation.kinds.perplexity import answer_rolling, answer_windows
from icu_ray.evaluation.model_requests import Answer, Request, Slice

if TYPE_CHECKING:
    from icu_ray.models.loading import LoadedModel


def answer_slices(loaded: LoadedModel, parts: Sequence[Slice], sure: SureTokens | None = None) -> list[list[Answer]]:
    """The answers to each of the slices, all of one measure, asked together. Otherwise as answer_slice."""
    whole = Slice(parts[0].measure, tuple(request for part in parts for request in part.requests))
    answers = iter(answer_slice(loaded, whole, sure))
    return [list(itertools.islice(answers, len(part.requests))) for part in parts]


def answer_slice(loaded: LoadedModel, part: Slice, sure: SureTokens | None = None) -> list[Answer]:
    """One answer a request. UserError for what this model cannot be asked, or cannot answer: of NaN follows nothing.

    sure: what earlier slices have shown of this very model; it is read, and this slice's added.
    """
    answers = _answered(loaded, part, {} if sure is None else sure)
    if any(math.isnan(answer.loglikelihood) for answer in answers):
        # argmax of NaN is the first candidate, and would be counted as an answer; so would be a text made from it.
        raise UserError("the model's scores are not finite, so that it answers nothing")
    return answers


def _answered(loaded: LoadedModel, part: Slice, sure: SureTokens) -> list[Answer]:
    model, tokenizer, measure = loaded.model, loaded.tokenizer, part.measure
    positions = positions_of(model, tokenizer)
    if measure.kind == "loglikelihood":
        return answer_loglikelihoods(model, tokenizer, part.requests, measure)
    if measure.kind == "rolling":
        return answer_rolling(model, tokenizer, part.requests, positions)
    if measure.kind == "window":
        return answer_windows(model, part.requests, measure, positions)
    if measure.kind == "answer":
        return answer_known(model, tokenizer, part.requests, measure, positions, sure)
    if measure.kind == "gradient":
        return answer_gradients(model, tokenizer, part.requests, measure, positions)
    if measure.kind == "greedy":
        return answer_greedily(model, tokenizer, part.requests, measure, positions, sure)
    if measure.kind == "generation":
        return answer_generations(model, tokenizer, part.requests, measure, positions)
    return _as_the_harness(loaded, part.requests, positions)


def _as_the_harness(loaded: LoadedModel, requests: Sequence[Request], positions: int) -> list[Answer]:
    """Generation tasks of the harness bring their own settings and stop texts: its own HFLM answers them.

    It shows no scores; whether they are NaN is asked of the first request alone.
    """
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm: Any = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=16)
    instances = [
        Instance("generate_until", {}, (request.context, json.loads(request.target)), 0) for request in requests
    ]
    first: Any = loaded.tokenizer(requests[0].context or " ", verbose=False)["input_ids"]
    ids = torch.tensor([first[-positions:]], device=loaded.model.device)
    with torch.inference_mode():
        nan = bool(loaded.model(input_ids=ids).logits[0, -1].isnan().any())
    said = lm.generate_until(instances, disable_tqdm=True)
    return [Answer(math.nan if nan else 0.0, 0, text=text) for text in said]
