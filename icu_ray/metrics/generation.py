"""What the model says after a prompt: the beam-search candidates that refinement judges (section IV-D).

ids = generate_candidates(model, rows.prompt_ids, rows.prompt_mask, max_new_tokens=50, pad_id=rows.pad_id,
                          eos_id=rows.eos_id)
texts = decode_candidates(tokenizer, ids, strip_special=True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.console.progress import teller_of_share
from icu_ray.metrics.beam_search import beam_search

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def generate_candidates(
    model: PreTrainedModel,
    prompt_ids: NDArray[np.int64],
    prompt_mask: NDArray[np.bool_],
    *,
    max_new_tokens: int | NDArray[np.int64],
    pad_id: int,
    eos_id: int | None,
    beams: int = 2,
    use_mask: bool = True,
    batch_size: int = 128,
    guesses: NDArray[np.int64] | None = None,
    on_nan: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """(N, T) int64 new tokens, padded with pad_id after an end-of-text.

    prompt_ids, prompt_mask: (N, P) left padded. max_new_tokens: T, or each prompt's own (N,), at most T;
    what is said after one prompt does not depend on the others, but for rounding, by which less than single precision
    and kernels of GPUs may choose another token in a batch of another shape. Beam search as the authors run it: no
    sampling, early_stopping off, length penalty 1; a model folder's generation settings do not matter. use_mask=False
    attends to pads (the authors). A prompt after which the model's scores are not finite is answered with pads only,
    and `on_nan` hears of it; with a guess, one that holds a broken token counts as part of the prompt. guesses: (N, T)
    int64, what the model may well say, such as a memorised suffix: where one forward makes that certain, nothing is
    searched. The answer is the same; with less than single precision guesses are left alone, for there two forwards
    may differ by more than the margin.
    """
    if model.dtype not in (torch.float32, torch.float64):
        guesses = None
    limits = np.broadcast_to(np.asarray(max_new_tokens, dtype=np.int64), len(prompt_ids))
    longest = int(limits.max(initial=0))
    result = np.full((len(prompt_ids), longest), pad_id, dtype=np.int64)
    if guesses is not None:
        # Behind a prompt's own number of tokens stands one that it has, which harms nothing.
        guesses = np.where(np.arange(longest) < limits[:, None], guesses, prompt_ids[:, -1:])
    seen = prompt_mask if use_mask else np.ones_like(prompt_mask)
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            done = 0
            for block in _blocks(seen, limits, batch_size, model.config.get_text_config()):
                tell = teller_of_share("candidates", done, len(block), len(prompt_ids))
                tell(0.0)
                done += len(block)
                # What is a pad in all of them is left out.
                own, new = slice(int(seen[block].any(axis=0).argmax()), None), int(limits[block].max())
                ids = torch.from_numpy(prompt_ids[block, own]).to(model.device)
                mask = None if seen[block, own].all() else torch.from_numpy(seen[block, own]).to(model.device)
                generated = beam_search(
                    model,
                    ids,
                    mask,
                    beams=beams,
                    max_new_tokens=torch.from_numpy(limits[block]).to(model.device),
                    pad_id=pad_id,
                    eos_id=eos_id,
                    guesses=None if guesses is None else torch.from_numpy(guesses[block, :new]).to(model.device),
                    on_token=tell,
                    on_nan=on_nan,
                )
                result[block, :new] = generated.cpu().numpy()
    finally:
        model.train(was_training)
    return result


def _blocks(
    seen: NDArray[np.bool_], limits: NDArray[np.int64], batch_size: int, config: PretrainedConfig
) -> Iterator[NDArray[np.int64]]:
    """The prompts that are asked together, at most `batch_size`.

    Where all ask for one number of tokens, those without pads, almost all as a rule, go first and need no mask. Else
    those that ask for the most go first, and a batch is no wider than the model's positions reach.
    """
    if len(np.unique(limits)) <= 1:
        padded = ~seen.all(axis=1)
        for members in (np.flatnonzero(~padded), np.flatnonzero(padded)):
            yield from (members[begin : begin + batch_size] for begin in range(0, len(members), batch_size))
        return
    reach = getattr(config, "max_position_embeddings", None) or math.inf
    lengths = seen.shape[1] - seen.argmax(axis=1)
    order = np.argsort(-limits, kind="stable")
    begin = 0
    while begin < len(order):
        widths = np.maximum.accumulate(lengths[order[begin : begin + batch_size]]) + limits[order[begin]]
        fit = max(1, int((widths <= reach).sum()))
        yield order[begin : begin + fit]
        begin += fit


def decode_candidates(
    tokenizer: PreTrainedTokenizerBase, ids: Iterable[NDArray[np.int64]], strip_special: bool
) -> tuple[str, ...]:
    """Texts of generated rows; strip_special=False keeps end-of-text marks and pads in them (the authors)."""
    rows = [row.tolist() for row in ids]
    if not rows:
        return ()  # for which transformers 5 has one empty text
    texts = tokenizer.batch_decode(rows, skip_special_tokens=strip_special, clean_up_tokenization_spaces=False)
    return tuple(texts)
