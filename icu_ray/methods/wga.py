"""WGA (Wang et al., "Rethinking LLM unlearning objectives: a gradient perspective"): weighted gradient ascent.

    L_forget = 1/N sum_t p_t^beta log p_t          p_t, the model's probability of a token, weighs without a gradient

Tokens that the model is sure of are hit most. The weight vanishes with p, which bounds the damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Setting
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN, ForgetAndRetain
from icu_ray.methods.objective import Objective, nll


class Wga(ForgetAndRetain):
    """Gradient ascent, each token weighed by its own probability."""

    name = "wga"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_wga": 1.0, **GAMMA_AND_RETAIN}
    not_negative: ClassVar[tuple[str, ...]] = ("beta_wga", "gamma")

    def forget(self) -> Objective:
        """Weighted log-likelihood of the targets, lowered."""
        return -nll("target", powers=(self.number("beta_wga"), 0.0))
