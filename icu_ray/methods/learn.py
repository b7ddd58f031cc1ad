"""Learning the targets: plain fine-tuning, by which models are made that know what is to be forgotten.

No method of unlearning, so it has no name in the registry; training/finetuning.py runs it.
"""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective, nll


class Learn(Method):
    """Descend on the targets."""

    name = "learn"
    uses_alpha = False
    uses_beta = False

    def objective(self) -> Objective:
        """CE(targets)."""
        return nll("target", name="learn")
