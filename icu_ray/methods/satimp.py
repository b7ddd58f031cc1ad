"""SatImp (Yang et al., "Exploring criteria of loss reweighting to enhance LLM unlearning"): saturation and importance.

    L_forget = 1/N sum_t p_t^beta1 (1 - p_t)^beta2 log p_t          the weight of a token has no gradient

preset paper: gamma 1, alpha 0.1, the paper's ratio of forget to retain loss. preset ou_yaml: gamma 0.1, alpha 1, what
OpenUnlearning's configuration ships. A gamma or an alpha that is given counts, whatever the preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Setting
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN, RETAIN, ForgetAndRetain
from icu_ray.methods.objective import Objective, nll

_PRESETS: Mapping[str, tuple[float, float]] = {"paper": (1.0, 0.1), "ou_yaml": (0.1, 1.0)}
"""gamma and alpha."""


class SatImp(ForgetAndRetain):
    """Gradient ascent, each token weighed by how sure the model is of it, and how far from certain."""

    name = "satimp"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta1": 5.0, "beta2": 1.0, "preset": "paper", **GAMMA_AND_RETAIN}
    not_negative: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "gamma")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"preset": tuple(_PRESETS), **RETAIN}

    @classmethod
    def usual_alpha(cls, settings: Mapping[str, Setting]) -> float:
        """The preset's."""
        return _PRESETS.get(str(settings.get("preset", "paper")), _PRESETS["paper"])[1]

    def set_up(self, given: Mapping[str, Setting]) -> None:
        """The preset's gamma, unless it is given."""
        if "gamma" not in given:
            self.settings["gamma"] = _PRESETS[str(self.settings["preset"])][0]

    def forget(self) -> Objective:
        """Weighted log-likelihood of the targets, lowered."""
        return -nll("target", powers=(self.number("beta1"), self.number("beta2")))
