"""UNDIAL (Dong et al., "UNDIAL: self-distillation with adjusted logits"): learn a softer original.

    L_forget = 1/N sum_t - sum_v q_t(v) log p_t(v)          q_t: the original model with the true token's score - beta

positions answer: the scored tokens. positions all: every position but the last, prompt and padding too, as in
OpenUnlearning, where at unscored ones the score of word V - 100 is lowered: the value then depends on the padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Setting, TokenRule
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN, RETAIN, ForgetAndRetain
from icu_ray.methods.objective import Objective, softened


class Undial(ForgetAndRetain):
    """Self-distillation; alpha is 0 unless it is given, as in the paper."""

    name = "undial"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_undial": 10.0, "positions": "answer", **GAMMA_AND_RETAIN}
    not_negative: ClassVar[tuple[str, ...]] = ("beta_undial", "gamma")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"positions": ("answer", "all"), **RETAIN}

    @classmethod
    def usual_alpha(cls, settings: Mapping[str, Setting]) -> float:
        """No retain part."""
        return 0.0

    @property
    def target_rule(self) -> TokenRule:
        """Which positions count."""
        everywhere = TokenRule(positions="padded_next", reduction="token_mean")
        return everywhere if self.settings["positions"] == "all" else TokenRule()

    def forget(self) -> Objective:
        """Cross-entropy, so the entropy of q is in it."""
        return softened(self.number("beta_undial"))
