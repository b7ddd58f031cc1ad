"""NPO (Zhang et al., "Negative preference optimization"): DPO's loss with only the rejected row.

    L_forget = 2 / beta_npo * mean over rows of softplus(beta_npo * log P(target)/P_0(target))

Its gradient is gradient ascent's, fading out as the target becomes unlikely. Probabilities are of whole rows, sums and
not means of log-probabilities. npo_style rows: as above, as in the paper. npo_style muse_logits: as in MUSE's code,
softplus(beta_npo * (score - original's score)) averaged over all words of all positions, padding too. retain is none
unless it is given; with nll or kl, alpha weighs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from icu_ray.methods.base import Setting, TokenRule
from icu_ray.methods.forget_retain import ForgetAndRetain
from icu_ray.methods.objective import Objective, log_ratio, logit_ratio, softplus


class Npo(ForgetAndRetain):
    """Negative preference optimisation on the targets."""

    name = "npo"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_npo": 0.1, "npo_style": "rows", "gamma": 1.0, "retain": "none"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "npo_style": ("rows", "muse_logits"),
        "retain": ("none", "nll", "kl"),
    }
    positive: ClassVar[tuple[str, ...]] = ("beta_npo",)
    uses_alpha = False

    @classmethod
    def alpha_counts(cls, settings: Mapping[str, Setting]) -> bool:
        """With a retain part alone."""
        return settings.get("retain", "none") != "none"

    @property
    def target_rule(self) -> TokenRule:
        """Which positions count."""
        everywhere = TokenRule(positions="padded", reduction="token_mean")
        return everywhere if self.settings["npo_style"] == "muse_logits" else TokenRule()

    def forget(self) -> Objective:
        """Mean over the active rows of the global batch."""
        beta = self.number("beta_npo")
        if self.settings["npo_style"] == "muse_logits":
            return 2 / beta * logit_ratio(beta)
        return softplus(beta * log_ratio("target"), times=2 / beta)
