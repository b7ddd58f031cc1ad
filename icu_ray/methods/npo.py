"""NPO (Zhang et al., "Negative preference optimization"): DPO's loss with only the rejected row.

    loss = - 2 / beta_npo * log sigmoid(- beta_npo * log P(target)/P_0(target)), mean over rows

Its gradient is gradient ascent's, fading out as the target becomes unlikely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from icu_ray.methods.base import Batch, LossTerms, Method, Setting
from icu_ray.methods.objective import Objective, nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Npo(Method):
    """Negative preference optimisation on the targets."""

    name = "npo"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_npo": 0.1}
    uses_alpha = False
    uses_beta = False

    def objective(self) -> Objective:
        """The linear loss that points the same way: what tells which rows are needed."""
        return -nll("target")

    @property
    def needs_reference_nll(self) -> bool:
        """The original model's log-probabilities of the targets enter."""
        return True

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Mean over the active rows of the global batch."""
        from torch.nn.functional import logsigmoid

        from icu_ray.methods.losses import log_ratios

        beta = float(self.settings["beta_npo"])
        weights, ratio = log_ratios(model, batch, ("target",), self.options)
        total = -2.0 / beta * (weights * logsigmoid(-beta * ratio["target"])).sum()
        return LossTerms(total, {"npo": total.detach(), "log_ratio": (weights * ratio["target"]).sum().detach()})
