"""PDU (Entesari et al., "Constrained entropic unlearning"): flat scores, and a limit to the retain loss.

    L = gamma * 1/N sum_t (largest score - mean score)^2 + lambda * (CE(pairs) - eps)
    lambda <- max(0, lambda + dual_step * (CE(pairs) - eps))          after each optimizer step, from alpha on

lambda is the dual variable of the constraint CE(pairs) <= eps. It follows the retain loss of the whole global batch
once an optimizer step, is alike on all workers, and is in the trial's checkpoints. OpenUnlearning changes it at every
micro batch, by that one's loss, so there the number of micro batches changes the result. It stays as it is in the first
`warmup` epochs. The gradient does not see eps.

positions answer: where the scored tokens are predicted. positions labels: at these tokens themselves, as in
OpenUnlearning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from icu_ray.methods.base import Batch, LossTerms, Setting
from icu_ray.methods.forget_retain import ForgetAndRetain
from icu_ray.methods.objective import Objective, gap, measured, nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Pdu(ForgetAndRetain):
    """Primal-dual unlearning; alpha is where the dual variable starts."""

    name = "pdu"
    defaults: ClassVar[Mapping[str, Setting]] = {
        "eps": 0.3,
        "dual_step": 1.0,
        "warmup": 5,
        "positions": "answer",
        "gamma": 1.0,
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"positions": ("answer", "labels")}
    not_negative: ClassVar[tuple[str, ...]] = ("eps", "dual_step", "warmup", "gamma")
    follows_steps = True

    def set_up(self, given: Mapping[str, Setting]) -> None:
        """The dual variable starts at alpha."""
        self.dual = self.alpha

    def forget(self) -> Objective:
        """The squared gap of scores, which are not normalised: its value is in the hundreds."""
        return gap("target", at="own" if self.settings["positions"] == "labels" else "predicting")

    def objective(self) -> Objective:
        """The retain loss is measured at a dual variable of zero too, or that would stay there."""
        return self.number("gamma") * self.forget() + measured(self.dual, nll("pair", name="retain"))

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Row weights of a global batch add up to 1, so micro batches add up to one eps."""
        terms = super().loss(model, batch)
        share = batch.row_weights.sum()
        parts = {**terms.parts, "dual": self.dual * share}
        return LossTerms(terms.total - self.dual * self.number("eps") * share, parts)

    def after_step(self, parts: Mapping[str, float], epoch: int) -> None:
        """One step of the dual variable; a batch without an active row, or a broken model, tells nothing."""
        told = math.isfinite(parts["retain"]) and (self.dual == 0 or parts["dual"] > 0)
        if epoch > int(self.settings["warmup"]) and told:
            self.dual = max(0.0, self.dual + self.number("dual_step") * (parts["retain"] - self.number("eps")))

    def state(self) -> dict[str, float]:
        """The dual variable."""
        return {"dual": self.dual}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with it."""
        self.dual = state.get("dual", self.dual)
