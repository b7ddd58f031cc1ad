"""What the model says after a prompt: the beam-search candidates that refinement judges (section IV-D).

ids = generate_candidates(model, rows.prompt_ids, rows.prompt_mask, max_new_tokens=50, pad_id=rows.pad_id,
                          eos_id=rows.eos_id)
texts = decode_candidates(tokenizer, ids, strip_special=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from icu_ray.console.progress import teller_of_share
from icu_ray.metrics.beam_search import beam_search

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def generate_candidates(
    model: PreTrainedModel,
    prompt_ids: NDArray[np.int64],
    prompt_mask: NDArray[np.bool_],
    *,
    max_new_tokens: int,
    pad_id: int,
    eos_id: int | None,
    beams: int = 2,
    use_mask: bool = True,
    batch_size: int = 128,
    guesses: NDArray[np.int64] | None = None,
    on_nan: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """(N, max_new_tokens) int64 new tokens, padded with pad_id after an end-of-text.

    prompt_ids, prompt_mask: (N, P) left padded. Beam search as the authors run it: no sampling, early_stopping off,
    length penalty 1; a model folder's generation settings do not matter. use_mask=False attends to pads (the authors).
    Where a model's scores are NaN it says pads only, and `on_nan` hears of it. guesses: (N, max_new_tokens) int64, what
    the model may well say, such as a memorised suffix: where one forward makes that certain, nothing is searched. The
    answer is the same; with less than single precision guesses are left alone, for there two forwards may differ by
    more than the margin.
    """
    if model.dtype not in (torch.float32, torch.float64):
        guesses = None
    result = np.full((len(prompt_ids), max_new_tokens), pad_id, dtype=np.int64)
    seen = prompt_mask if use_mask else np.ones_like(prompt_mask)
    padded = np.asarray(~seen.all(axis=1))
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            # Prompts without pads, almost all as a rule, need no mask.
            done = 0
            for members in (np.flatnonzero(~padded), np.flatnonzero(padded)):
                for begin in range(0, len(members), batch_size):
                    block = members[begin : begin + batch_size]
                    tell = teller_of_share("candidates", done, len(block), len(prompt_ids))
                    tell(0.0)
                    done += len(block)
                    ids = torch.from_numpy(prompt_ids[block]).to(model.device)
                    mask = torch.from_numpy(seen[block]).to(model.device) if padded[block[0]] else None
                    if not bool(torch.isfinite(model(input_ids=ids[:1, -1:], use_cache=False).logits).all()):
                        on_nan()
                        continue
                    generated = beam_search(
                        model,
                        ids,
                        mask,
                        beams=beams,
                        max_new_tokens=max_new_tokens,
                        pad_id=pad_id,
                        eos_id=eos_id,
                        guesses=None if guesses is None else torch.from_numpy(guesses[block]).to(model.device),
                        on_token=tell,
                        on_nan=on_nan,
                    )
                    result[block] = generated.cpu().numpy()
    finally:
        model.train(was_training)
    return result


def decode_candidates(
    tokenizer: PreTrainedTokenizerBase, ids: Iterable[NDArray[np.int64]], strip_special: bool
) -> tuple[str, ...]:
    """Texts of generated rows; strip_special=False keeps end-of-text marks and pads in them (the authors)."""
    rows = [row.tolist() for row in ids]
    if not rows:
        return ()  # for which transformers 5 has one empty text
    texts = tokenizer.batch_decode(rows, skip_special_tokens=strip_special, clean_up_tokenization_spaces=False)
    return tuple(texts)
