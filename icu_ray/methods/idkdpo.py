"""IdkDPO (TOFU's DPO baseline, by OpenUnlearning): prefer a sentence of ignorance to the true answer.

    L_forget = 2/beta * mean over rows of softplus(- beta * (log P(idk)/P_0(idk) - log P(target)/P_0(target)))

Both are answers to the same prompt. The sentence is drawn for each row and epoch from the trial's seed. DPO itself has
no factor 2/beta; it scales the loss against the retain part. What this project calls `dpo` prefers the pair instead.
answers alternates: the rows' own second answers in place of sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from icu_ray.methods.base import Setting
from icu_ray.methods.forget_retain import GAMMA_AND_RETAIN, RETAIN, ForgetAndRetain
from icu_ray.methods.objective import Objective, log_ratio, softplus


class IdkDpo(ForgetAndRetain):
    """Direct preference optimisation with a second answer chosen and the true one rejected."""

    name = "idkdpo"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_dpo": 0.1, "answers": "sentences", **GAMMA_AND_RETAIN}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"answers": ("sentences", "alternates"), **RETAIN}
    positive: ClassVar[tuple[str, ...]] = ("beta_dpo",)
    second_answers: ClassVar[Literal["sentences", "alternates"] | None] = "sentences"

    @property
    def answers(self) -> Literal["sentences", "alternates"]:
        """As the setting says."""
        return "alternates" if self.settings["answers"] == "alternates" else "sentences"

    def forget(self) -> Objective:
        """Mean over the active rows of the global batch."""
        beta = self.number("beta_dpo")
        win, lose = log_ratio("alternate"), log_ratio("target")
        return softplus(-beta * (win - lose), times=2 / beta)
