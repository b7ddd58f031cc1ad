"""The algebra that a method's loss is written in: weighted sums of a few kinds of terms.

`nll(rows)` is the negative log-likelihood of rows and `kl()` the divergence from the original model on the
pairs (equations 1, 3 and 4 of the paper up to sign). Terms add up and take factors, so a method reads as in
the paper:

    -nll("target") + alpha * nll("pair") + beta * kl()          # equation (6)

Losses of whole rows go through a softplus; what stands in it is a sum too:

    softplus(-beta * (log_ratio("alternate") - log_ratio("target")), times=2 / beta)

An `Objective` is a plain value: building one needs neither torch nor a model. `losses.evaluate` computes it,
with one forward for all rows and one pass over the vocabulary for all terms of a token. Row losses read the
vocabulary twice, because a row's slope is known only when all of its tokens are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["target", "alternate", "pair"]
"""Rows of a batch: to be forgotten, a second answer to the same prompts, and to be kept."""
SIDES: tuple[Side, ...] = ("target", "alternate", "pair")
Kind = Literal["nll", "kl", "others", "softened", "gap", "logit_ratio", "distance", "softplus"]
Quantity = Literal["log_ratio", "mean_nll"]


@dataclass(frozen=True)
class RowValue:
    """A number of each row: a sum of quantities of its sides with factors, and an offset."""

    parts: tuple[tuple[float, Quantity, Side], ...]
    offset: float = 0.0

    def __add__(self, other: RowValue | float) -> RowValue:
        if isinstance(other, RowValue):
            return RowValue(self.parts + other.parts, self.offset + other.offset)
        return RowValue(self.parts, self.offset + other)

    def __sub__(self, other: RowValue | float) -> RowValue:
        return self + -1.0 * other

    def __neg__(self) -> RowValue:
        return -1.0 * self

    def __rmul__(self, factor: float) -> RowValue:
        parts = tuple((factor * own, quantity, side) for own, quantity, side in self.parts)
        return RowValue(parts, factor * self.offset)


@dataclass(frozen=True)
class Term:
    """One quantity to be summed over the tokens of a batch, with the weights of `methods/weights.py`.

    name: how it is called in logs.
    kind: of the functions below; each says what it is.
    inputs: the rows that the model reads.
    labels: the rows whose tokens it is scored on (nll only differs here); their weights are used.
    powers: (nll) of the model's own probability p of a token and of 1 - p, whose product weighs it, detached.
    strength: (softened) what is taken off the label's score; (logit_ratio) beta; (softplus) what it is multiplied by.
    at: where a token's weight applies: at the position that predicts it, or at its own.
    value: (softplus) what stands in it.
    layer, steering, seed: (distance) the layer that is read, counted from 0, and the random goal; steering None: the
    original model's states are the goal.
    """

    name: str
    kind: Kind
    inputs: Side
    labels: Side
    powers: tuple[float, float] = (0.0, 0.0)
    strength: float = 0.0
    at: Literal["predicting", "own"] = "predicting"
    value: RowValue | None = None
    layer: int | None = None
    steering: float | None = None
    seed: int = 0

    @property
    def sides(self) -> frozenset[Side]:
        """All rows that it reads or scores."""
        rows = () if self.value is None else (side for _, _, side in self.value.parts)
        return frozenset((self.inputs, self.labels, *rows))


@dataclass(frozen=True)
class Objective:
    """A sum of terms with factors; factors of zero drop their term, so that nothing is computed for it."""

    terms: tuple[tuple[float, Term], ...]

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __sub__(self, other: Objective) -> Objective:
        return self + -other

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __rmul__(self, factor: float) -> Objective:
        return Objective(tuple((factor * own, term) for own, term in self.terms if factor * own != 0))

    @property
    def sides(self) -> tuple[Side, ...]:
        """The rows that are read or scored, in the order of SIDES."""
        used = {side for _, term in self.terms for side in term.sides}
        return tuple(side for side in SIDES if side in used)

    @property
    def read(self) -> tuple[Side, ...]:
        """The sides whose rows the model reads, in the order of SIDES; of others the labels alone are used."""
        values = (side for _, term in self.terms if term.value is not None for side in term.sides)
        used = {*(term.inputs for _, term in self.terms), *values}
        return tuple(side for side in SIDES if side in used)

    @property
    def rescored(self) -> frozenset[Side]:
        """The sides whose rows have a loss of the whole row, so that their tokens are scored twice."""
        values = (term.value for _, term in self.terms if term.value is not None)
        return frozenset(side for value in values for _, _, side in value.parts)

    @property
    def needs_pairs(self) -> bool:
        """Whether any term reads or scores the paired rows."""
        return "pair" in self.sides

    @property
    def needs_alternates(self) -> bool:
        """Whether any term reads second answers."""
        return "alternate" in self.sides

    @property
    def needs_reference(self) -> bool:
        """Whether any term compares with the original model's distribution on the pairs."""
        return any(term.kind == "kl" for _, term in self.terms)

    @property
    def needs_target_reference(self) -> bool:
        """Whether any term compares with the original model's distribution on the targets."""
        return any(term.kind in ("softened", "logit_ratio") for _, term in self.terms)

    @property
    def needs_reference_nll(self) -> bool:
        """Whether any term compares with the original model's probability of whole rows."""
        values = [term.value for _, term in self.terms if term.value is not None]
        return any(quantity == "log_ratio" for value in values for _, quantity, _ in value.parts)

    @property
    def beside(self) -> int:
        """How many distributions a token's terms need beside the model's own, at most."""
        kinds = ("kl", "others", "softened", "logit_ratio")
        needing = [term.inputs for _, term in self.terms if term.kind in kinds]
        return max((needing.count(side) for side in needing), default=0)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers whose hidden states are read, ascending."""
        return tuple(sorted({term.layer for _, term in self.terms if term.layer is not None}))

    @property
    def reference_layers(self) -> tuple[int, ...]:
        """Layers whose hidden states are compared with the original model's on the pairs."""
        kept = (term for _, term in self.terms if term.kind == "distance" and term.steering is None)
        return tuple(sorted({term.layer for term in kept if term.layer is not None}))


def measured(factor: float, objective: Objective) -> Objective:
    """factor * objective, of which the value is measured and logged even where the factor is zero."""
    return Objective(tuple((factor * own, term) for own, term in objective.terms))


def nll(
    rows: Side, *, labels: Side | None = None, name: str | None = None, powers: tuple[float, float] = (0.0, 0.0)
) -> Objective:
    """Negative log-likelihood of `rows`; with `labels`, of the other rows' tokens after reading `rows`.

    powers (a, b): each token is weighed by p^a (1-p)^b of the model's own probability p of it, without a gradient.
    """
    scored = labels or rows
    usual: dict[Side, str] = {"target": "forget", "alternate": "answer", "pair": "learn"}
    default = "mismatch" if scored != rows else usual[rows]
    return Objective(((1.0, Term(name or default, "nll", rows, scored, powers=powers)),))


def kl(name: str = "kl") -> Objective:
    """KL[P_theta0 || P_theta] on the paired rows; theta_0 is the original model (equation 4)."""
    return Objective(((1.0, Term(name, "kl", "pair", "pair")),))


def others(rows: Side, name: str = "forget") -> Objective:
    """Cross-entropy against the model's own distribution, detached, from which the true token is taken out."""
    return Objective(((1.0, Term(name, "others", rows, rows)),))


def softened(strength: float, name: str = "forget") -> Objective:
    """Cross-entropy on the targets against the original model's, with the true token's score lowered by `strength`."""
    return Objective(((1.0, Term(name, "softened", "target", "target", strength=strength)),))


def gap(rows: Side, *, at: Literal["predicting", "own"] = "predicting", name: str = "forget") -> Objective:
    """Squared difference of a position's largest and mean score."""
    return Objective(((1.0, Term(name, "gap", rows, rows, at=at)),))


def logit_ratio(beta: float, name: str = "forget") -> Objective:
    """Mean over the vocabulary of softplus(beta * (score - original model's score)), on the targets at own columns."""
    return Objective(((1.0, Term(name, "logit_ratio", "target", "target", strength=beta, at="own")),))


def distance(rows: Side, layer: int, *, steering: float | None = None, seed: int = 0, name: str = "") -> Objective:
    """Mean squared difference of a layer's states from a random direction times `steering`, at the tokens themselves.

    steering None: from the original model's states.
    """
    usual = name or ("embed_diff" if steering is None else "forget")
    term = Term(usual, "distance", rows, rows, at="own", layer=layer, steering=steering, seed=seed)
    return Objective(((1.0, term),))


def log_ratio(rows: Side) -> RowValue:
    """log P_theta(row) / P_theta0(row), summed over a row's scored tokens."""
    return RowValue(((1.0, "log_ratio", rows),))


def mean_nll(rows: Side) -> RowValue:
    """Negative log-likelihood of a row, mean over its scored tokens; 0 for a row without any."""
    return RowValue(((1.0, "mean_nll", rows),))


def softplus(value: RowValue, *, times: float = 1.0, name: str = "forget") -> Objective:
    """times * log(1 + exp(value)), mean over rows."""
    first = value.parts[0][2]
    return Objective(((1.0, Term(name, "softplus", first, first, strength=times, value=value)),))
