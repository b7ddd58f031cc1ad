"""The algebra that a method's loss is written in: weighted sums of two kinds of terms.

`nll(rows)` is the negative log-likelihood of rows and `kl()` the divergence from the original model on the
pairs (equations 1, 3 and 4 of the paper up to sign). Terms add up and take factors, so a method reads as in
the paper:

    -nll("target") + alpha * nll("pair") + beta * kl()          # equation (6)

An `Objective` is a plain value: building one needs neither torch nor a model. `losses.evaluate` computes it,
with one forward for all rows and one pass over the vocabulary for all terms of a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["target", "pair"]


@dataclass(frozen=True)
class Term:
    """One quantity to be summed over the tokens of a batch, with the weights of `methods/weights.py`.

    name: how it is called in logs.
    kind: "nll" or "kl".
    inputs: the rows that the model reads.
    labels: the rows whose tokens it is scored on (nll only); their weights are used.
    """

    name: str
    kind: Literal["nll", "kl"]
    inputs: Side
    labels: Side


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
    def needs_pairs(self) -> bool:
        """Whether any term reads or scores the paired rows."""
        return any("pair" in (term.inputs, term.labels) for _, term in self.terms)

    @property
    def needs_reference(self) -> bool:
        """Whether any term compares with the original model's distribution."""
        return any(term.kind == "kl" for _, term in self.terms)


def nll(rows: Side, *, labels: Side | None = None, name: str | None = None) -> Objective:
    """Negative log-likelihood of `rows`; with `labels`, of the other rows' tokens after reading `rows`."""
    scored = labels or rows
    default = "mismatch" if scored != rows else {"target": "forget", "pair": "learn"}[rows]
    return Objective(((1.0, Term(name or default, "nll", rows, scored)),))


def kl(name: str = "kl") -> Objective:
    """KL[P_theta0 || P_theta] on the paired rows; theta_0 is the original model (equation 4)."""
    return Objective(((1.0, Term(name, "kl", "pair", "pair")),))
