"""No method: the model as it is, measured and evaluated like the others. The tables' rows without training."""

from __future__ import annotations

from icu_ray.methods.base import Method
from icu_ray.methods.objective import Objective


class Original(Method):
    """Nothing to learn and nothing to unlearn; a plan gives it no epoch."""

    name = "original"
    trains = False
    uses_alpha = False
    uses_beta = False

    def objective(self) -> Objective:
        """An empty sum."""
        return Objective(())
