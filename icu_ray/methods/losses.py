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
from icu_ray.methods.vocabulary_loss import Segment, token_nll, vocabulary_loss
from icu_ray.methods.vocabulary_terms import (
    GapTerm,
    KlTerm,
    LogitRatioTerm,
    NllTerm,
    OthersTerm,
    SoftenedTerm,
    VocabularyTerm,
)
from icu_ray.models.hidden import hidden_states, output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icu_ray.config import LossConfig
    from icu_ray.methods.batch import Batch
    from icu_ray.methods.objective import Objective, Quantity, Side, Term
    from icu_ray.models.reference_batch import ReferenceBatch


def evaluate(objective: Objective, model: PreTrainedModel, batch: Batch, options: LossConfig) -> LossTerms:
    """Total and parts of an objective; `options` gives the divergence's form, the chunk, joint or not."""
    rows = {side: _active_rows(objective, batch, side) for side in objective.read}
    hidden, layers = _forward(model, batch, rows, joint=options.joint_forward, layers=objective.layers)
    weight, bias = output_head(model)
    segments, chosen, named = [], [], []
    for side in rows:
        entries = [(f, t) for f, t in objective.terms if t.inputs == side and t.kind not in ("softplus", "distance")]
        if not entries:
            continue
        weights = [_weights(batch, term)[rows[side]].flatten() for _, term in entries]
        scored = torch.stack([w != 0 for w in weights]).any(0).nonzero().flatten()
        length = _ids(batch, side).shape[1]
        where = rows[side][scored // length] * length + scored % length
        terms = [_term(f, t, batch, w[scored], where, options.kl) for (f, t), w in zip(entries, weights, strict=True)]
        chosen.append(hidden[side].flatten(0, 1)[scored])
        segments.append(Segment(len(scored), terms))
        named += [term.name for _, term in entries]
    total = next(iter(hidden.values())).new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    if segments:
        total, values = vocabulary_loss(torch.cat(chosen), weight, bias, segments, options.chunk)
        parts = dict(zip(named, values.unbind(), strict=True))
    quantities: dict[tuple[Quantity, Side], Tensor] = {}
    for factor, term in objective.terms:
        if term.kind == "distance":
            value = _distance(term, batch, rows[term.inputs], layers[term.inputs])
        elif term.value is not None:
            for _, quantity, side in term.value.parts:
                if (quantity, side) not in quantities:
                    nll, count = _row_nll(model, batch, side, rows[side], hidden[side], options.chunk)
                    quantities[quantity, side] = _quantity(quantity, batch, side, rows[side], nll, count)
            inside = sum((f * quantities[q, s] for f, q, s in term.value.parts), torch.tensor(term.value.offset))
            row_weights = batch.row_weights[rows[term.inputs]]
            value = term.strength * (row_weights * functional.softplus(inside)).sum()
            parts[f"{term.name}_margin"] = (row_weights * inside).sum().detach()
        else:
            continue
        total = total + factor * value
        parts[term.name] = value.detach()
    return LossTerms(total, parts)


def log_ratios(
    model: PreTrainedModel, batch: Batch, sides: Sequence[Side], options: LossConfig
) -> tuple[Tensor, dict[Side, Tensor]]:
    """(A,) row weights of the active rows, and for each side their (A,) log P_theta(row) / P_theta0(row).

    Log-probabilities are summed over the tokens that carry weight, whatever the reduction.
    """
    active = batch.row_weights.nonzero().flatten()
    rows = active if len(active) else active.new_zeros(1)
    hidden, _ = _forward(model, batch, dict.fromkeys(sides, rows), joint=options.joint_forward)
    ratios: dict[Side, Tensor] = {}
    for side in sides:
        nll, count = _row_nll(model, batch, side, rows, hidden[side], options.chunk)
        ratios[side] = _quantity("log_ratio", batch, side, rows, nll, count)
    return batch.row_weights[rows], ratios


def _row_nll(
    model: PreTrainedModel, batch: Batch, side: Side, rows: Tensor, hidden: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """(A,) negative log-likelihood of rows, summed over the tokens that carry weight, and (A,) their number."""
    weight, bias = output_head(model)
    scored = _next(_token_weights(batch, side)[rows]) != 0
    labels = _next(_labels(batch, side)[rows])[scored]
    nll = torch.zeros(scored.shape, device=scored.device)
    nll = nll.masked_scatter(scored, token_nll(hidden[scored], weight, bias, labels, chunk))
    return nll.sum(1), scored.sum(1)


def _quantity(quantity: Quantity, batch: Batch, side: Side, rows: Tensor, nll: Tensor, count: Tensor) -> Tensor:
    """(A,) what stands in a softplus. nll, count: as of `_row_nll`."""
    if quantity == "mean_nll":
        return nll / count.clamp(min=1)
    scored = _next(_token_weights(batch, side)[rows]) != 0
    theirs: Tensor = _next(_reference_nll(batch, side)[rows]).mul(scored).sum(1)
    return theirs - nll


def _distance(term: Term, batch: Batch, rows: Tensor, layers: dict[int, Tensor]) -> Tensor:
    """Weighted sum of the mean squared distances of a layer's states (A, L, H) from their goal."""
    assert term.layer is not None
    weights = _weights(batch, term)[rows]
    scored = weights != 0
    states = layers[term.layer][scored].float()
    if term.steering is not None:
        goal = term.steering * control_vector(term.seed, states.shape[-1]).to(states.device)
    else:
        known = _reference(batch).layers
        if term.layer not in known:
            raise ValueError(f"this method needs the original model's states of layer {term.layer} on the pairs")
        goal = known[term.layer][rows][scored].float()
    return (weights[scored] * (states - goal).square().mean(-1)).sum()


def control_vector(seed: int, size: int) -> Tensor:
    """(size,) float32 of length 1, uniform in [0, 1) before it is scaled: RMU's direction, all entries positive."""
    made = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    unit: Tensor = made / made.norm()
    return unit


def _term(factor: float, term: Term, batch: Batch, weights: Tensor, where: Tensor, form: str) -> VocabularyTerm:
    if term.kind == "kl":
        return KlTerm(factor, weights, _reference(batch), where, form)
    if term.kind == "gap":
        return GapTerm(factor, weights)
    if term.kind == "logit_ratio":
        return LogitRatioTerm(factor, weights, _reference(batch), where, term.strength)
    labels = _next(_labels(batch, term.labels)).flatten()[where]
    if term.kind == "softened":
        return SoftenedTerm(factor, labels, weights, _reference(batch), where, term.strength)
    if term.kind == "others":
        return OthersTerm(factor, labels, weights)
    return NllTerm(factor, labels, weights, term.powers)


def _weights(batch: Batch, term: Term) -> Tensor:
    """(B, L) weights at the position that is read: one before the label's, or its own."""
    if term.kind == "kl":
        return _present(batch.kl_weights, "kl_weights")
    weights = _token_weights(batch, term.labels)
    return weights if term.at == "own" else _next(weights)


def _active_rows(objective: Objective, batch: Batch, side: Side) -> Tensor:
    """Rows that weigh anything. Rows of a softplus are those of the targets, on every side of it."""
    used = [_weights(batch, t).any(1) for _, t in objective.terms if t.value is None and t.inputs == side]
    if any(term.value is not None and side in term.sides for _, term in objective.terms):
        used.append(batch.row_weights != 0)
    rows = torch.stack(used).any(0).nonzero().flatten()
    return rows if len(rows) else rows.new_zeros(1)


def _forward(
    model: PreTrainedModel, batch: Batch, rows: dict[Side, Tensor], joint: bool, layers: Sequence[int] = ()
) -> tuple[dict[Side, Tensor], dict[Side, dict[int, Tensor]]]:
    """(A, L, H) last hidden states of the chosen rows of each side, in one forward where `joint`; and of layers."""
    ids = {side: _ids(batch, side)[chosen] for side, chosen in rows.items()}
    masks = {side: _mask(batch, side)[chosen] for side, chosen in rows.items()}
    places = {side: None if (p := _positions(batch, side)) is None else p[chosen] for side, chosen in rows.items()}
    known = [p for p in places.values() if p is not None]
    alike = len({v.shape[1] for v in ids.values()}) == 1 and len(known) in (0, len(ids))
    if alike and joint and len(ids) > 1:
        positions = torch.cat(known) if known else None
        together = torch.cat(list(ids.values())), torch.cat(list(masks.values()))
        hidden, states = hidden_states(model, *together, positions, layers)
        sizes = [len(v) for v in ids.values()]
        split = {layer: dict(zip(ids, torch.split(each, sizes), strict=True)) for layer, each in states.items()}
        of_side = {side: {layer: each[side] for layer, each in split.items()} for side in ids}
        return dict(zip(ids, torch.split(hidden, sizes), strict=True)), of_side
    found = {side: hidden_states(model, ids[side], masks[side], places[side], layers) for side in ids}
    return {side: each[0] for side, each in found.items()}, {side: each[1] for side, each in found.items()}


def _next(values: Tensor) -> Tensor:
    """values[:, t + 1] at t; the last position predicts nothing (0)."""
    return functional.pad(values[:, 1:], (0, 1))


def _ids(batch: Batch, side: Side) -> Tensor:
    return _present(getattr(batch, f"{side}_ids"), f"{side}_ids")


def _mask(batch: Batch, side: Side) -> Tensor:
    return _present(getattr(batch, f"{side}_mask"), f"{side}_mask")


def _positions(batch: Batch, side: Side) -> Tensor | None:
    found: Tensor | None = getattr(batch, f"{side}_positions")
    return found


def _labels(batch: Batch, side: Side) -> Tensor:
    return _present(getattr(batch, f"{side}_labels"), f"{side}_labels")


def _token_weights(batch: Batch, side: Side) -> Tensor:
    return _present(getattr(batch, f"{side}_weights"), f"{side}_weights")


def _reference(batch: Batch) -> ReferenceBatch:
    if batch.reference is None:
        raise ValueError("this method compares with the original model, but the batch carries no reference")
    return batch.reference


def _reference_nll(batch: Batch, side: Side) -> Tensor:
    nll = None if batch.reference is None else getattr(batch.reference, f"{side}_nll")
    if nll is None:
        raise ValueError(f"this method needs the original model's token losses on the {side} rows")
    found: Tensor = nll
    return found


def _present(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"this method needs rows that the batch does not carry: {name}")
    return value
