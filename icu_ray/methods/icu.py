"""ICU, the paper's method (section IV): forget the targets while learning from their nearest neighbours.

    method = methods.get("icu", alpha=0.5, beta=1.0)

alpha = 0 and beta = 0 are the ablations of figure 3; both zero is gradient ascent. Where tokens start (t_0)
and whether they are summed or averaged is said by the batch's weights (methods/weights.py); iterative
refinement, section IV-D, is training/refinement.py.
"""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective, kl, nll


class Icu(Method):
    """Knowledge unlearning induction + contrastive learning enhancement."""

    name = "icu"

    def objective(self) -> Objective:
        """Equation (6)."""
        loss_tgt = -nll("target")  # (1)   sum_t log P_theta(x_t | x_<t) of the targets: lowered, not raised
        loss_lrm = nll("pair")  # (3) - sum_t log P_theta(x_t | x_<t) of the pairs
        loss_kl = kl()  # (4)   sum_t KL[P_theta0(. | x_<t) || P_theta(. | x_<t)] on the pairs
        return loss_tgt + self.alpha * loss_lrm + self.beta * loss_kl  # (6)
