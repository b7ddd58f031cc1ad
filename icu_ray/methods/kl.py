"""KL: gradient ascent on the targets, held near the original model on the pairs (reference [29])."""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective, kl, nll


class Kl(Method):
    """Equations (1) and (4): ICU with alpha = 0."""

    name = "kl"
    uses_alpha = False

    def objective(self) -> Objective:
        """Gradient ascent plus beta times the divergence."""
        return -nll("target") + self.beta * kl()
