"""What the field's methods have in common: gamma times a forget loss plus alpha times a retain loss.

    L = gamma * L_forget + alpha * L_retain

L_retain, on the pairs, is their negative log-likelihood (retain: nll) or the divergence from the original model
(retain: kl). `forget()` is what one of them adds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Method, Setting
from icu_ray.methods.objective import Objective, kl, nll

GAMMA_AND_RETAIN: Mapping[str, Setting] = {"gamma": 1.0, "retain": "nll"}
RETAIN: Mapping[str, tuple[str, ...]] = {"retain": ("nll", "kl")}


class ForgetAndRetain(Method):
    """Settings: gamma, retain. alpha, of a cell, weighs the retain loss; beta, of a cell, is not used."""

    defaults: ClassVar[Mapping[str, Setting]] = GAMMA_AND_RETAIN
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = RETAIN
    not_negative: ClassVar[tuple[str, ...]] = ("gamma",)
    uses_beta = False

    @classmethod
    def usual_alpha(cls, settings: Mapping[str, Setting]) -> float:
        """1, as in OpenUnlearning, unless a method says otherwise."""
        return 1.0

    @abstractmethod
    def forget(self) -> Objective:
        """L_forget, to be minimised."""

    def retain(self) -> Objective:
        """L_retain."""
        return {"nll": nll("pair", name="retain"), "kl": kl(), "none": Objective(())}[str(self.settings["retain"])]

    def objective(self) -> Objective:
        """gamma * L_forget + alpha * L_retain."""
        return self.number("gamma") * self.forget() + self.alpha * self.retain()

    def number(self, key: str) -> float:
        """A setting that is a number."""
        return float(self.settings[key])
