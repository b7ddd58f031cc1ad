"""SimNPO (Fan et al., "Simplicity prevails: rethinking negative preference optimization"): NPO without a reference.

    L_forget = 2/beta * mean over rows of softplus(- beta * (mean token loss of the row - delta))

delta is called gamma in the paper; gamma here is the weight of the forget loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Setting
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN, ForgetAndRetain
from icu_ray.methods.objective import Objective, mean_nll, softplus


class SimNpo(ForgetAndRetain):
    """Negative preference optimisation on length-normalised losses; defaults are OpenUnlearning's."""

    name = "simnpo"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_simnpo": 4.5, "delta": 0.0, **GAMMA_AND_RETAIN, "gamma": 0.125}
    positive: ClassVar[tuple[str, ...]] = ("beta_simnpo",)
    not_negative: ClassVar[tuple[str, ...]] = ("gamma",)

    def forget(self) -> Objective:
        """Mean over the active rows of the global batch."""
        beta = self.number("beta_simnpo")
        return softplus(-beta * (mean_nll("target") - self.number("delta")), times=2 / beta)
