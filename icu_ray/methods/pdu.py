"""PDU (Entesari et al., "Constrained entropic unlearning"): flat scores, and a limit to the retain loss.

    L = gamma * 1/N sum_t (largest score - mean score)^2 + lambda * (CE(pairs) - eps)
    lambda <- max(0, lambda + dual_step * (CE(pairs) - eps))                                          from alpha on

lambda is the dual variable of the constraint CE(pairs) <= eps. It is alike on all workers, and is in the trial's
checkpoints. The gradient does not see eps.

dual_update step: after each optimizer step, by the retain loss of the whole global batch; in the first `warmup` epochs
it stays as it is. OpenUnlearning changes it at every micro batch, by that one's loss, so there the number of micro
batches changes the result.
dual_update epoch: after each epoch from the `warmup`-th on, by the mean retain loss of the model as it then is over the
batches of the coming epoch: where pairs are drawn, they are drawn anew. After a trial's last epoch nothing is measured.

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
        "dual_update": "step",
        "warmup": 5,
        "positions": "answer",
        "gamma": 1.0,
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "positions": ("answer", "labels"),
        "dual_update": ("step", "epoch"),
    }
    not_negative: ClassVar[tuple[str, ...]] = ("eps", "dual_step", "warmup", "gamma")

    def set_up(self, given: Mapping[str, Setting]) -> None:
        """The dual variable starts at alpha."""
        self.dual = self.alpha
        self.follows_steps = self.settings["dual_update"] == "step"

    def forget(self) -> Objective:
        """The squared gap of scores, which are not normalised: its value is in the hundreds."""
        return gap("target", at="own" if self.settings["positions"] == "labels" else "predicting")

    def retain(self) -> Objective:
        """CE(pairs)."""
        return nll("pair", name="retain")

    def objective(self) -> Objective:
        """The retain loss is measured at a dual variable of zero too, or that would stay there."""
        return self.number("gamma") * self.forget() + measured(self.dual, self.retain())

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Row weights of a global batch add up to 1, so micro batches add up to one eps."""
        terms = super().loss(model, batch)
        share = batch.row_weights.sum()
        parts = {**terms.parts, "dual": self.dual * share}
        return LossTerms(terms.total - self.dual * self.number("eps") * share, parts)

    def after_step(self, parts: Mapping[str, float], epoch: int) -> None:
        """One step of the dual variable; a batch without an active row tells nothing."""
        if epoch > int(self.settings["warmup"]) and (self.dual == 0 or parts["dual"] > 0):
            self._follow(parts["retain"])

    def measured_after_epoch(self, epoch: int | None = None) -> Objective | None:
        """CE(pairs), unless the dual variable moves at every step or is still to stay."""
        stays = epoch is not None and epoch < int(self.settings["warmup"])
        return None if self.settings["dual_update"] == "step" or stays else self.retain()

    def after_epoch(self, parts: Mapping[str, float], epoch: int) -> None:
        """One step of the dual variable."""
        self._follow(parts["retain"])

    def _follow(self, retain: float) -> None:
        """Of a broken model it stays as it is."""
        if math.isfinite(retain):
            self.dual = max(0.0, self.dual + self.number("dual_step") * (retain - self.number("eps")))

    def state(self) -> dict[str, float]:
        """The dual variable."""
        return {"dual": self.dual}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with it."""
        self.dual = state.get("dual", self.dual)
