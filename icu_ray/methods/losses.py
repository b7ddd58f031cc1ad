"""From a method's objective to numbers: which rows are run, which tokens are scored, and in which order.

    terms = evaluate(objective, model, batch, options)           # what every method with an Objective uses
    weights, ratios = log_ratios(model, batch, ("pair", "target"), options)    # for losses of whole rows
    (dpo, npo)

Only rows and tokens that carry weight are computed, and targets and pairs go through the model in one
forward. A batch
without any active row still runs one row with zero weights: all gradients exist and are exactly zero, so
ranks and accumulation steps stay in step. A batch must have at least one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from icu_ray.methods.batch import LossTerms
from icu_ray.methods.vocabulary_loss import KlTerm, NllTerm, Segment, token_nll, vocabulary_loss
from icu_ray.models.hidden import last_hidden, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icu_ray.config import LossConfig
    from icu_ray.methods.batch import Batch
    from icu_ray.methods.objective import Objective, Side, Term


def evaluate(objective: Objective, model: PreTrainedModel, batch: Batch, options: LossConfig) -> LossTerms:
    """Total and parts of an objective; `options` gives the divergence's form, the chunk, joint or not."""
    sides: list[Side] = [s for s in ("target", "pair") if any(term.inputs == s for _, term in objective.terms)]
    rows = {side: _active_rows(objective, batch, side) for side in sides}
    hidden = _forward(model, batch, rows, joint=options.joint_forward)
    weight, bias = output_head(model)
    segments, chosen = [], []
    for side in sides:
        entries = [(factor, term) for factor, term in objective.terms if term.inputs == side]
        weights = [_weights(batch, term)[rows[side]].flatten() for _, term in entries]
        scored = torch.stack([w != 0 for w in weights]).any(0).nonzero().flatten()
        length = _ids(batch, side).shape[1]
        where = rows[side][scored // length] * length + scored % length
        terms = [_term(f, t, batch, w[scored], where, options.kl) for (f, t), w in zip(entries, weights, strict=True)]
        chosen.append(hidden[side].flatten(0, 1)[scored])
        segments.append(Segment(len(scored), terms))
    total, values = vocabulary_loss(torch.cat(chosen), weight, bias, segments, options.chunk)
    names = [term.name for side in sides for _, term in objective.terms if term.inputs == side]
    return LossTerms(total, dict(zip(names, values.unbind(), strict=True)))


def log_ratios(
    model: PreTrainedModel, batch: Batch, sides: Sequence[Side], options: LossConfig
) -> tuple[Tensor, dict[Side, Tensor]]:
    """(A,) row weights of the active rows, and for each side their (A,) log P_theta(row) / P_theta0(row).

    Log-probabilities are summed over the tokens that carry weight, whatever the reduction.
    """
    active = batch.row_weights.nonzero().flatten()
    rows = active if len(active) else active.new_zeros(1)
    hidden = _forward(model, batch, dict.fromkeys(sides, rows), joint=options.joint_forward)
    weight, bias = output_head(model)
    ratios: dict[Side, Tensor] = {}
    for side in sides:
        scored = _next(_token_weights(batch, side)[rows]) != 0
        labels = _next(_labels(batch, side)[rows])[scored]
        nll = torch.zeros(scored.shape, device=scored.device)
        nll = nll.masked_scatter(scored, token_nll(hidden[side][scored], weight, bias, labels, options.chunk))
        ratios[side] = _next(_reference_nll(batch, side)[rows]).mul(scored).sum(1) - nll.sum(1)
    return batch.row_weights[rows], ratios


def _term(factor: float, term: Term, batch: Batch, weights: Tensor, where: Tensor, form: str) -> NllTerm | KlTerm:
    if term.kind == "kl":
        if batch.reference is None:
            raise ValueError("this method compares with the original model, but the batch carries no reference")
        return KlTerm(factor, weights, batch.reference, where, form)
    return NllTerm(factor, _next(_labels(batch, term.labels)).flatten()[where], weights)


def _weights(batch: Batch, term: Term) -> Tensor:
    """(B, L) weights at the position whose distribution is scored: one before the label's."""
    if term.kind == "kl":
        return _present(batch.kl_weights, "kl_weights")
    return _next(_token_weights(batch, term.labels))


def _active_rows(objective: Objective, batch: Batch, side: Side) -> Tensor:
    used = [_weights(batch, term) for _, term in objective.terms if term.inputs == side]
    rows = torch.stack([w.any(1) for w in used]).any(0).nonzero().flatten()
    return rows if len(rows) else rows.new_zeros(1)


def _forward(model: PreTrainedModel, batch: Batch, rows: dict[Side, Tensor], joint: bool) -> dict[Side, Tensor]:
    """(A, L, H) last hidden states of the chosen rows of each side, in one forward where `joint`."""
    ids = {side: _ids(batch, side)[chosen] for side, chosen in rows.items()}
    masks = {side: _mask(batch, side)[chosen] for side, chosen in rows.items()}
    places = {side: None if (p := _positions(batch, side)) is None else p[chosen] for side, chosen in rows.items()}
    known = [p for p in places.values() if p is not None]
    alike = len({v.shape[1] for v in ids.values()}) == 1 and len(known) in (0, len(ids))
    if alike and joint and len(ids) > 1:
        positions = torch.cat(known) if known else None
        hidden = last_hidden(model, torch.cat(list(ids.values())), torch.cat(list(masks.values())), positions)
        parts = torch.split(hidden, [len(v) for v in ids.values()])
        return dict(zip(ids, parts, strict=True))
    return {side: last_hidden(model, ids[side], masks[side], places[side]) for side in ids}


def _next(values: Tensor) -> Tensor:
    """values[:, t + 1] at t; the last position predicts nothing (0)."""
    return functional.pad(values[:, 1:], (0, 1))


def _ids(batch: Batch, side: Side) -> Tensor:
    return batch.target_ids if side == "target" else _present(batch.pair_ids, "pair_ids")


def _mask(batch: Batch, side: Side) -> Tensor:
    return batch.target_mask if side == "target" else _present(batch.pair_mask, "pair_mask")


def _positions(batch: Batch, side: Side) -> Tensor | None:
    return batch.target_positions if side == "target" else batch.pair_positions


def _labels(batch: Batch, side: Side) -> Tensor:
    return batch.target_labels if side == "target" else _present(batch.pair_labels, "pair_labels")


def _token_weights(batch: Batch, side: Side) -> Tensor:
    return batch.target_weights if side == "target" else _present(batch.pair_weights, "pair_weights")


def _reference_nll(batch: Batch, side: Side) -> Tensor:
    nll = None if batch.reference is None else getattr(batch.reference, f"{side}_nll")
    if nll is None:
        raise ValueError(f"this method needs the original model's token losses on the {side} rows")
    found: Tensor = nll
    return found


def _present(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"this method needs pairs, but the batch carries no {name}")
    return value
