"""PO: descend on the pair's tokens after the target's. The paper's tables call this run "DPO".

It has no reference model, no sigmoid and no preference: the idea is TOFU's preference optimisation with
refusals. The real thing is dpo.py.
"""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective, nll


class Po(Method):
    """Answer the target with the pair, and learn the pair."""

    name = "po"
    uses_beta = False

    def objective(self) -> Objective:
        """CE(pair tokens after target tokens) + alpha CE(pairs)."""
        return nll("target", labels="pair") + self.alpha * nll("pair")
