"""GradDiff (Liu et al., "Continual learning and private unlearning"): ascent on targets, descent on pairs.

    L = - gamma * CE(targets) + alpha * CE(pairs)          with retain: kl, alpha * KL(original || model) on the pairs

The forget loss has no bound: it goes to minus infinity with the model.
"""

from __future__ import annotations

from icu_ray.methods.forget_retain import ForgetAndRetain
from icu_ray.methods.objective import Objective, nll


class GradDiff(ForgetAndRetain):
    """Gradient difference; the mean over rows of each row's mean is the config's loss.reduction: seq_mean."""

    name = "graddiff"

    def forget(self) -> Objective:
        """The log-likelihood of the targets, lowered."""
        return -nll("target")
