"""KUMPR: gradient ascent on the targets alone (Jang et al., the paper's reference [12])."""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective, nll


class Kumpr(Method):
    """Equation (1) without anything that holds the model together."""

    name = "kumpr"
    uses_alpha = False
    uses_beta = False

    def objective(self) -> Objective:
        """The log-likelihood of the targets, lowered."""
        return -nll("target")
