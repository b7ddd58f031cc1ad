"""ROUGE of greedy answers: what a model says after a prompt, and how much of the true answer that is.

    said = greedy_answers(model, tokenizer, prompts, max_new_tokens=200, ends={eos_id}, pad_id=eos_id)
    rouge_scores(said, answers).rougeL_recall            # (N,); MUSE reads .rougeL_f1

Prompts of like length share a batch, and each leaves it with its end-of-sequence token or stop words. How an answer
begins may be known already: `AnswerScores.copied` is what greedy generation says up to its first departure from the
truth, so that what a model recites is not generated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from icu_ray.console.progress import teller_of_share
from icu_ray.metrics.answers import Floats
from icu_ray.metrics.conventions import DEFINED, Conventions
from icu_ray.metrics.extraction_likelihood import NO_TOKEN
from icu_ray.metrics.greedy_decoding import greedy_tokens
from icu_ray.metrics.kv_cache import Continuations, bytes_per_token
from icu_ray.metrics.sampling import blocks_of_like_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWERS_AT_ONCE = 256
CACHED_BYTES, CACHED_BYTES_ON_CPU = 16 * 1024**3, 2 * 1024**3  # on a GPU no more than a quarter of what is free
"""Keys and values of answers that are generated together: on a GPU 32,768 tokens of Llama-2-7B in bfloat16."""


@dataclass(frozen=True)
class RougeScores:
    """(N,) each, 0..1; NaN where nothing could be generated."""

    rouge1_recall: Floats
    rougeL_recall: Floats
    rougeL_f1: Floats


def rouge_scores(
    said: Sequence[str | None], references: Sequence[str], conventions: Conventions = DEFINED
) -> RougeScores:
    """ROUGE of N answers against the true ones, by the package rouge_score; an empty answer has 0 everywhere.

    Its tokens are runs of ASCII letters and digits in lower case, so that a text without any has 0 too.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=conventions.stemmer)
    found = np.full((len(references), 3), np.nan)
    for row, (answer, reference) in enumerate(zip(said, references, strict=True)):
        if answer is not None:
            scores = scorer.score(reference, answer)
            found[row] = scores["rouge1"].recall, scores["rougeL"].recall, scores["rougeL"].fmeasure
    return RougeScores(found[:, 0], found[:, 1], found[:, 2])


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    ends: Collection[int],
    pad_id: int,
    stop_words: Sequence[str] = (),
    openings: Sequence[Sequence[int]] | None = None,
    masked: int | None = None,
    at_once: int = ANSWERS_AT_ONCE,
) -> list[str | None]:
    """What the model says after each of the N prompts, token ids without pads, as text: `cut_answer` of it.

    An answer ends before a token of `ends`, after max_new_tokens (of all, or of each prompt), where the model's
    positions end, or soon after a stop word. None where the model's scores are not finite, or a prompt leaves no place
    for an answer: an empty text would count as forgotten. openings: for each prompt tokens that its answer is known to
    begin with. masked: a token that attention does not see, also in a prompt. A model folder's settings for generation
    do not count.
    """
    words = _words(tokenizer, stop_words)
    stops = _stop_test(tokenizer, [word for word in stop_words if word], words)
    reach = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    most = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    limits = [int(max(0, min(own, reach - len(prompt)))) for own, prompt in zip(most, prompts, strict=True)]
    said: list[list[int] | None] = [[] if limit > 0 else None for limit in limits]
    asked = []
    for row, limit in enumerate(limits):
        known = [] if openings is None else list(openings[row][:limit])
        ended = next((place for place, token in enumerate(known) if token in ends), None)
        if limit > 0:
            said[row] = known if ended is None else known[:ended]
            if ended is None and len(known) < limit and not (known and stops(known)):
                asked.append(row)
    begun = [[*prompt, *(tokens or ())] for prompt, tokens in zip(prompts, said, strict=True)]
    left = [limit - len(tokens or ()) for limit, tokens in zip(limits, said, strict=True)]
    longest = max((len(begun[row]) + left[row] for row in asked), default=1)
    room = CACHED_BYTES_ON_CPU
    if model.device.type == "cuda":  # several may share it, each of which finds what the others have left
        room = min(CACHED_BYTES, torch.cuda.mem_get_info(model.device)[0] // 4)
    at_once = max(1, min(at_once, room // (longest * bytes_per_token(model))))
    was_training, done = model.training, 0
    model.train(False)
    try:
        with torch.inference_mode():
            for block in blocks_of_like_length(asked, [len(each) for each in begun], left, at_once, reach):
                tell = teller_of_share("answers", done, len(block), len(asked))
                done += len(block)
                before = [said[row] or [] for row in block]

                def stop(place: int, tokens: list[int], before: list[list[int]] = before) -> bool:
                    return stops(before[place] + tokens)

                wanted = [left[row] for row in block]
                more = _generated(model, [begun[row] for row in block], wanted, ends, pad_id, stop, tell, masked)
                for row, known, tokens in zip(block, before, more, strict=True):
                    said[row] = None if tokens is None else known + tokens
    finally:
        model.train(was_training)
    return [None if tokens is None else cut_answer(_text(tokenizer, tokens), words) for tokens in said]


def cut_answer(text: str, words: Sequence[str]) -> str:
    """The text up to the first of each of the words, one word after the other, stripped of spaces."""
    for word in words:
        text = text.split(word)[0]
    return text.strip()


def _words(tokenizer: PreTrainedTokenizerBase, stop_words: Sequence[str]) -> list[str]:
    """What an answer is cut at: the end-of-sequence token where it is written out, then the stop words."""
    eos = tokenizer.eos_token
    return [word for word in (*([str(eos)] if eos else []), *stop_words) if word]


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _stop_test(
    tokenizer: PreTrainedTokenizerBase, stop_words: Sequence[str], words: Sequence[str]
) -> Callable[[list[int]], bool]:
    """Whether tokens say one of the stop words, and enough behind it for `cut_answer` not to need more.

    Words may overlap, and the one that cuts first is not the one that is said first: behind a word as many characters
    are waited for as all words have. The last tokens are asked first, for that costs the same at any length.
    """
    margin = sum(map(len, words))
    near = 1 + sum(len(word.encode()) for word in words) + max((len(word.encode()) for word in words), default=0)

    def stops(tokens: list[int]) -> bool:
        last = _text(tokenizer, tokens[-near:])
        if not any(word in last for word in stop_words):
            return False
        whole = _text(tokenizer, tokens)[:-margin]
        return any(word in whole for word in stop_words)

    return stops if stop_words else lambda tokens: False


def _generated(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    ends: Collection[int],
    pad_id: int,
    stops: Callable[[int, list[int]], bool],
    on_part: Callable[[float], None],
    masked: int | None,
) -> list[list[int] | None]:
    """The most probable next tokens after each prompt until it ends; None where scores are not finite."""
    device, width, longest = model.device, max(map(len, prompts)), max(limits)
    ids = torch.tensor([[pad_id] * (width - len(each)) + list(each) for each in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(each)) + [True] * len(each) for each in prompts], device=device)
    if masked is not None:
        mask &= ids != masked
    states = Continuations(model, ids, None if bool(mask.all()) else mask, longest)
    logits = states.first()
    said: list[list[int] | None] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    for generated in range(1, longest + 1):
        tokens = greedy_tokens(logits).tolist()
        going = []
        for place, (row, token) in enumerate(zip(alive, tokens, strict=True)):
            own = said[row]
            assert own is not None
            if token == NO_TOKEN:
                said[row] = None
            elif token not in ends:
                own.append(token)
                if generated < limits[row] and not stops(row, own):
                    going.append(place)
        if not going:
            break
        going = states.keep(going, generated)
        alive = [alive[place] for place in going]
        logits = states.next(torch.tensor([tokens[place] for place in going], device=device), generated)
        on_part(generated / longest)
    return said
