"""Beam search over many prompts at once: what transformers' generate() gives, at a fraction of its overhead per step.

All beams of a prompt read its keys and values where they are (metrics/prefixed.py), so that a step moves only columns
that were generated; prompts whose beams cannot improve leave the batch. Fixed to what the refinement filter asks for:
no sampling, early_stopping off, length penalty 1.

    tokens = beam_search(model, prompt_ids, prompt_mask, beams=2, max_new_tokens=50, pad_id=0, eos_id=0)
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icu_ray.metrics.columns import ColumnCache, TailCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Prompts:
    """The model's next-token logits after the prompts and after what was said since, for the beams that go on."""

    def __init__(
        self, model: PreTrainedModel, ids: Tensor, mask: Tensor | None, beams: int, max_new_tokens: int
    ) -> None:
        self.model, self.ids, self.mask = model, ids, mask
        self.counts_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.width = ids.shape[1]
        self.prompts = ColumnCache(model.config, len(ids), self.width)
        self.size = (len(ids) * beams, self.width + max_new_tokens)
        self.tails: TailCache | None = None

    def first(self) -> Tensor:
        """(N, V) logits of the first new token."""
        self.prompts.open(slice(0, len(self.ids)), 0)
        return self._logits(self.ids, self.mask, self.prompts)

    def open(self, rows: Tensor) -> None:
        """One open row for each entry of `rows`, prompt numbers."""
        rows_at_most, length = self.size
        numbers = torch.arange(len(self.ids), device=rows.device)
        self.tails = TailCache(self.prompts, numbers, rows_at_most, self.width, length)
        self.tails.join(rows, self.width)

    def keep(self, rows: Tensor, said: int) -> None:
        """Of the open rows these go on, in this order (a row may go on twice); each has said `said` tokens."""
        assert self.tails is not None
        # The last of them has not been read yet.
        self.tails.keep(rows, self.width + said - 1)

    def next(self, tokens: Tensor, said: int) -> Tensor:
        """(R, V) logits after each open row's newest token (R,), which is its number `said`."""
        assert self.tails is not None
        self.tails.open(slice(0, len(tokens)), self.width + said - 1)
        mask = None
        if self.mask is not None:
            mask = torch.nn.functional.pad(self.mask[self.tails.sources], (0, said), value=True)
        return self._logits(tokens[:, None], mask, self.tails)

    def _logits(self, ids: Tensor, mask: Tensor | None, cache: ColumnCache) -> Tensor:
        options = {}
        if mask is not None:
            options["attention_mask"] = mask.long()
            if self.counts_positions:
                positions = (options["attention_mask"].cumsum(1) - 1).clamp(min=0)
                options["position_ids"] = positions[:, -ids.shape[1] :]
        logits: Tensor = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **options).logits
        return logits[:, -1].float()


def beam_search(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor | None,
    *,
    beams: int,
    max_new_tokens: int,
    pad_id: int,
    eos_id: int | None,
) -> Tensor:
    """(N, max_new_tokens) int64: each prompt's best continuation, padded with pad_id after its end-of-text.

    ids: (N, P) int64 left-padded prompts. mask: (N, P) bool, True where a real token stands; None: no pads. One beam
    is greedy search. Needs inference mode and a model in eval mode.
    """
    prompts = _Prompts(model, ids, mask, beams, max_new_tokens)
    count = len(ids)
    alive = torch.arange(count, device=ids.device)
    running = ids.new_zeros((count, 1, 0))
    scores = torch.zeros((count, 1), device=ids.device)
    ended = ids.new_full((count, beams, max_new_tokens), pad_id)
    ended_scores = scores.new_full((count, beams), -torch.inf)
    logits = prompts.first()
    for said in range(1, max_new_tokens + 1):
        totals = logits.log_softmax(-1).view(len(alive), running.shape[1], -1) + scores[..., None]
        # Twice as many as beams: half of them may end here, and all beams must be able to go on.
        best, places = totals.flatten(1).topk(2 * beams)
        parents, tokens = places // totals.shape[2], places % totals.shape[2]
        grown = torch.cat([_take(running, parents), tokens[..., None]], dim=2)
        ends = torch.full_like(places, said == max_new_tokens, dtype=torch.bool)
        if eos_id is not None:
            ends |= tokens == eos_id

        # What ends among the best `beams` competes with what ended before, by its mean log-probability.
        fresh = (best[:, :beams] / said).masked_fill(~ends[:, :beams], -torch.inf)
        padded = torch.nn.functional.pad(grown[:, :beams], (0, max_new_tokens - said), value=pad_id)
        ended_scores[alive], chosen = torch.cat([ended_scores[alive], fresh], dim=1).topk(beams)
        ended[alive] = _take(torch.cat([ended[alive], padded], dim=1), chosen)
        if said == max_new_tokens:
            break

        scores, chosen = best.masked_fill(ends, -torch.inf).topk(beams)
        running, parents, tokens = _take(grown, chosen), parents.gather(1, chosen), tokens.gather(1, chosen)
        if beams == 1:
            going = ~ends[:, 0]
        else:
            # Until all places are taken anything may still be better than an empty one.
            going = scores[:, 0] / said > ended_scores[alive].min(dim=1).values
        kept = going.nonzero().squeeze(1)
        if len(kept) == 0:
            break
        width = 1 if said == 1 else beams
        rows = (kept[:, None] * width + parents[kept]).flatten()
        if said == 1:
            prompts.open(rows)
        elif not torch.equal(rows, torch.arange(len(alive) * width, device=rows.device)):
            prompts.keep(rows, said)
        alive, running, scores, tokens = alive[kept], running[kept], scores[kept], tokens[kept]
        logits = prompts.next(tokens.flatten(), said)
    return ended[:, 0]


def _take(values: Tensor, places: Tensor) -> Tensor:
    """values (N, A, T) at places (N, B): (N, B, T)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))
