"""Beam search over many prompts at once: what transformers' generate() gives, at a fraction of its overhead per step.

All beams of a prompt read its keys and values where they are (metrics/prefixed.py), so that a step moves only columns
that were generated; prompts whose beams cannot improve leave the batch. Fixed to what the refinement filter asks for:
no sampling, early_stopping off, length penalty 1.

A memorised target needs no search: given a guess of what will be generated, one forward gives its probability. Where
every other continuation is provably less probable, the guess is the answer (`_certain`).

    tokens = beam_search(model, prompt_ids, prompt_mask, beams=2, max_new_tokens=50, pad_id=0, eos_id=0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icu_ray.metrics.kv_cache import CachedModel, ColumnCache, TailCache, sequences_at_once

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARGIN = 1e-3
"""Nats by which a guess must be more probable than all else: far above what rounding moves in fp32."""


class PromptStates:
    """The model's next-token logits after prompts and after what was generated since, for the rows that go on.

    ids: (N, P) int64 left-padded prompts. mask: (N, P) bool, True where a real token stands; None: no pads.
    """

    def __init__(self, model: PreTrainedModel, ids: Tensor, mask: Tensor | None) -> None:
        self.model, self.ids, self.mask = CachedModel(model), ids, mask
        self.width = ids.shape[1]
        self.tails: TailCache | None = None

    def read(self, guesses: Tensor | None, inside: Tensor, eos_id: int | None) -> tuple[Tensor, Tensor]:
        """(N, V) logits of the first new token; (N,) True where the guess (N, T) is what will be generated.

        inside: (N, T) True at the tokens that a prompt asks for.
        """
        ids, mask = self.ids, self.mask
        if guesses is not None:
            ids = torch.cat([ids, guesses[:, :-1]], dim=1)
            mask = None if mask is None else torch.cat([mask, inside[:, :-1]], dim=1)
        model = self.model.model
        self.prompts = ColumnCache(model.config, len(ids), ids.shape[1])
        first, certain = [], []
        for begin in range(0, len(ids), at_once := sequences_at_once(model, ids.shape[1])):
            block = slice(begin, min(begin + at_once, len(ids)))
            self.prompts.open(block, 0)
            new = ids.shape[1] - self.width + 1
            logits = self.model.logits(ids[block], None if mask is None else mask[block], self.prompts, new)
            first.append(logits[:, 0])
            known = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
            certain.append(known if guesses is None else _certain(logits, guesses[block], inside[block], eos_id))
        return torch.cat(first), torch.cat(certain)

    def open(self, members: Tensor, rows: Tensor, beams: int, max_new_tokens: int) -> None:
        """One open row for each entry of `rows`, places in `members`, the prompts that are searched (M,)."""
        length = self.width + max_new_tokens
        self.tails = TailCache(self.prompts, members, len(members) * beams, self.width, length)
        self.tails.join(rows, self.width)
        self.mask = None if self.mask is None else self.mask[members]

    def keep(self, rows: Tensor, generated: int) -> None:
        """Of the open rows these go on, in this order (a row may go on twice); each has `generated` tokens."""
        assert self.tails is not None
        # The last of them has not been read yet.
        self.tails.keep(rows, self.width + generated - 1)
        left = self.tails.drop_ended()
        if left is not None and self.mask is not None:
            self.mask = self.mask[left]

    def next(self, tokens: Tensor, generated: int) -> Tensor:
        """(R, V) logits after each open row's newest token (R,), which is its number `generated`."""
        assert self.tails is not None
        self.tails.open(slice(0, len(tokens)), self.width + generated - 1)
        mask = None
        if self.mask is not None:
            mask = torch.nn.functional.pad(self.mask[self.tails.sources], (0, generated), value=True)
        return self.model.logits(tokens[:, None], mask, self.tails, 1)[:, 0]


def _certain(logits: Tensor, guesses: Tensor, inside: Tensor, eos_id: int | None) -> Tensor:
    """(n,) True where beam search, however wide, must answer with the guess (n, T), whose tokens the logits predict.

    inside: (n, T) True at the tokens that a prompt asks for; the rest of its guess is not looked at.

    A continuation that leaves the guess at token d has at most the log-probability S(d-1) + log(1 - p(d)), S being the
    guess's own up to there, and can only lose from then on. If the whole guess has more than every such bound, it is
    the best running beam at each step; and none that ended earlier has a better mean, since the same or a smaller sum
    of negative numbers is divided by fewer tokens.
    """
    log_p = logits.log_softmax(-1).gather(2, guesses[..., None])[..., 0].double().masked_fill(~inside, 0.0)
    total = log_p.cumsum(1)
    others = total - log_p + torch.log1p(-log_p.exp().clamp(max=1))
    certain = total[:, -1] > others.max(1).values + MARGIN
    return certain if eos_id is None else certain & ((guesses != eos_id) | ~inside).all(1)


def beam_search(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor | None,
    *,
    beams: int,
    max_new_tokens: Tensor,
    pad_id: int,
    eos_id: int | None,
    guesses: Tensor | None = None,
    on_token: Callable[[float], None] = lambda part: None,
    on_nan: Callable[[], None] = lambda: None,
) -> Tensor:
    """(N, T) int64: each prompt's best continuation, padded with pad_id after its end-of-text.

    ids: (N, P) int64 left-padded prompts. mask: (N, P) bool, True where a real token stands; None: no pads. One beam
    is greedy search. max_new_tokens: (N,) int64, of which T is the largest: a prompt's search ends there as if it were
    alone, and pads follow. guesses: (N, T) int64, what may well be generated; only makes the answer faster.
    on_token: hears the part of all tokens that are generated. on_nan: hears of a prompt after which the scores are not
    finite and which is answered with pads. Needs inference mode and a model in eval mode.
    """
    prompts = PromptStates(model, ids, mask)
    longest = int(max_new_tokens.max())
    inside = torch.arange(longest, device=ids.device) < max_new_tokens[:, None]
    logits, certain = prompts.read(guesses, inside, eos_id)
    ended = ids.new_full((len(ids), beams, longest), pad_id)
    ended_scores = logits.new_full((len(ids), beams), -torch.inf)
    broken = ~logits.isfinite().all(1)
    certain &= ~broken
    if bool(broken.any()):
        on_nan()
    if guesses is not None:
        ended[certain, 0] = guesses.masked_fill(~inside, pad_id)[certain]
    searched = alive = (~certain & ~broken).nonzero().squeeze(1)
    if len(alive) == 0:
        return ended[:, 0]
    logits = logits[alive]
    running = ids.new_zeros((len(alive), 1, 0))
    scores = logits.new_zeros((len(alive), 1))
    for generated in range(1, longest + 1):
        totals = logits.log_softmax(-1).view(len(alive), running.shape[1], -1) + scores[..., None]
        # Twice as many as beams: half of them may end here, and all beams must be able to go on.
        best, places = totals.flatten(1).topk(2 * beams)
        parents, tokens = places // totals.shape[2], places % totals.shape[2]
        grown = torch.cat([_take(running, parents), tokens[..., None]], dim=2)
        ends = (max_new_tokens[alive] == generated)[:, None].repeat(1, places.shape[1])
        if eos_id is not None:
            ends |= tokens == eos_id

        # What ends among the best `beams` competes with what ended before, by its mean log-probability.
        fresh = (best[:, :beams] / generated).masked_fill(~ends[:, :beams], -torch.inf)
        padded = torch.nn.functional.pad(grown[:, :beams], (0, longest - generated), value=pad_id)
        ended_scores[alive], chosen = torch.cat([ended_scores[alive], fresh], dim=1).topk(beams)
        ended[alive] = _take(torch.cat([ended[alive], padded], dim=1), chosen)
        if generated == longest:
            break

        scores, chosen = best.masked_fill(ends, -torch.inf).topk(beams)
        running, parents, tokens = _take(grown, chosen), parents.gather(1, chosen), tokens.gather(1, chosen)
        if beams == 1:
            going = ~ends[:, 0]
        else:
            # Until all places are taken anything may still be better than an empty one. Where all beams have ended
            # there is nothing that is better.
            going = scores[:, 0] / generated > ended_scores[alive].min(dim=1).values
        kept = going.nonzero().squeeze(1)
        if len(kept) == 0:
            break
        width = 1 if generated == 1 else beams
        rows = (kept[:, None] * width + parents[kept]).flatten()
        if generated == 1:
            prompts.open(searched, rows, beams, longest)
        elif not torch.equal(rows, torch.arange(len(alive) * width, device=rows.device)):
            prompts.keep(rows, generated)
        alive, running, scores, tokens = alive[kept], running[kept], scores[kept], tokens[kept]
        logits = prompts.next(tokens.flatten(), generated)
        on_token(generated / longest)
    return ended[:, 0]


def _take(values: Tensor, places: Tensor) -> Tensor:
    """values (N, A, T) at places (N, B): (N, B, T)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))
