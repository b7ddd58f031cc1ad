"""LLMU as the authors ran it (Yao et al., reference [23]): ascent, a random mismatch, and the divergence.

The mismatch asks for the pair's token t + 1 after the target's first t tokens. Alpha weighs it, as lw does in
the authors' code; LLMU itself draws unrelated answers instead.
"""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective, kl, nll


class Llmu(Method):
    """Unlearn, answer at random, stay near the original model."""

    name = "llmu"

    def objective(self) -> Objective:
        """- CE(targets) + alpha CE(pair tokens after target tokens) + beta KL on the pairs."""
        mismatch = nll("target", labels="pair")
        return -nll("target") + self.alpha * mismatch + self.beta * kl()
