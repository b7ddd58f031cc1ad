"""Sampling after many prompts at once, several continuations of each, every one with a random generator of its own.

    said = sample_continuations(model, prompts, seeds, max_new_tokens=200, temperature=1.0, pad_id=0, ends={2})

A token is drawn as `torch.multinomial` draws one, by the generator of its own continuation: what is said depends on
prompt and seed, and neither on other prompts nor on batches and padding, but for rounding. A GPU's generators are
others than a CPU's. The continuations of a prompt share its keys and values (kv_cache.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icu_ray.errors import UserError
from icu_ray.metrics.beam_search import PromptStates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROMPTS_AT_ONCE = 16


def sample_continuations(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    temperature: float,
    pad_id: int,
    ends: Collection[int],
    at_once: int = PROMPTS_AT_ONCE,
    on_part: Callable[[float], None] = lambda part: None,
) -> list[list[tuple[int, ...]]]:
    """For each of the N prompts its continuations, one a seed, without the token that ended them.

    prompts: N lists of one token or more. seeds: for each, those of its continuations, 0 to 2^63 - 1. A continuation
    ends before a token of `ends`, after max_new_tokens (of all, or of each prompt), or where the model has no positions
    left; none are left by a prompt that fills them. on_part: hears the part that is done. UserError where scores are
    not finite.
    """
    reach = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    most = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    limits = [int(max(0, min(own, reach - len(prompt)))) for own, prompt in zip(most, prompts, strict=True)]
    said: list[list[tuple[int, ...]]] = [[() for _ in each] for each in seeds]
    asked = [row for row, limit in enumerate(limits) if limit > 0 and seeds[row]]
    was_training, done = model.training, 0
    model.train(False)
    try:
        with torch.inference_mode():
            for block in blocks_of_like_length(asked, [len(prompt) for prompt in prompts], limits, at_once, reach):

                def tell(part: float, done: int = done, members: int = len(block)) -> None:
                    on_part((done + members * part) / len(asked))

                tell(0.0)
                found = _sampled(
                    model,
                    [prompts[row] for row in block],
                    [seeds[row] for row in block],
                    [limits[row] for row in block],
                    temperature,
                    pad_id,
                    ends,
                    tell,
                )
                for row, each in zip(block, found, strict=True):
                    said[row] = each
                done += len(block)
    finally:
        model.train(was_training)
    return said


def blocks_of_like_length(
    rows: Sequence[int], lengths: Sequence[int], limits: Sequence[int], at_once: int, reach: float
) -> Iterator[list[int]]:
    """The prompts that are asked together, of about one length; padded, none goes past the model's positions."""
    block: list[int] = []
    most = 0
    for row in sorted(rows, key=lambda row: lengths[row]):
        # The newest is the longest.
        if block and (len(block) == at_once or lengths[row] + max(most, limits[row]) > reach):
            yield block
            block, most = [], 0
        block.append(row)
        most = max(most, limits[row])
    if block:
        yield block


def _sampled(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[Sequence[int]],
    limits: Sequence[int],
    temperature: float,
    pad_id: int,
    ends: Collection[int],
    on_part: Callable[[float], None],
) -> list[list[tuple[int, ...]]]:
    device, width, longest = model.device, max(map(len, prompts)), max(limits)
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[False] * (width - len(p)) + [True] * len(p) for p in prompts], device=device)
    states = PromptStates(model, ids, None if bool(mask.all()) else mask)
    logits, _ = states.read(None, mask[:, :0], None)
    alive = [(prompt, number) for prompt, each in enumerate(seeds) for number in range(len(each))]
    # On a GPU too: noise for a whole vocabulary, made on a CPU, would take longer than the model.
    generators = [[torch.Generator(device).manual_seed(seed) for seed in each] for each in seeds]
    said: list[list[list[int]]] = [[[] for _ in each] for each in seeds]
    logits = logits[torch.tensor([prompt for prompt, _ in alive], device=device)]
    for generated in range(1, longest + 1):
        tokens = _drawn(logits, temperature, [generators[prompt][number] for prompt, number in alive])
        going = []
        for place, ((prompt, number), token) in enumerate(zip(alive, tokens, strict=True)):
            if token in ends:
                continue
            said[prompt][number].append(token)
            if generated < limits[prompt]:
                going.append(place)
        if not going:
            break
        kept = torch.tensor(going, device=device)
        if generated == 1:
            owners = torch.tensor([alive[place][0] for place in going], device=device)
            states.open(torch.arange(len(prompts), device=device), owners, max(map(len, seeds)), longest)
        elif len(going) < len(alive):
            states.keep(kept, generated)
        alive = [alive[place] for place in going]
        logits = states.next(torch.tensor([tokens[place] for place in going], device=device), generated)
        on_part(generated / longest)
    return [[tuple(tokens) for tokens in each] for each in said]


def _drawn(logits: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> list[int]:
    """A token from each row of the scores (R, V), by the row's own generator."""
    probabilities = (logits / temperature).softmax(-1)
    if not bool(probabilities.isfinite().all()):
        raise UserError("the model's scores are not finite, so that it says nothing")
    # The most probable after division by exponential noise is a draw; so little of it depends on rounding.
    noise = torch.stack([torch.empty_like(logits[0]).exponential_(generator=each) for each in generators])
    drawn: list[int] = (probabilities / noise).argmax(-1).tolist()
    return drawn
