"""DPO, the real one (Rafailov et al.): prefer the pair to the target, relative to the original model.

    loss = - log sigmoid(beta_dpo * (log P(pair)/P_0(pair) - log P(target)/P_0(target))), mean over rows

What the paper's tables call "DPO" is po.py. Both rows are scored without a shared prompt, since they have
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from icu_ray.methods.base import Batch, Cost, LossTerms, Method, Setting
from icu_ray.methods.objective import Objective, nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Dpo(Method):
    """Direct preference optimisation with the pair chosen and the target rejected."""

    name = "dpo"
    defaults: ClassVar[Mapping[str, Setting]] = {"beta_dpo": 0.1}
    uses_alpha = False
    uses_beta = False

    def objective(self) -> Objective:
        """The linear loss that points the same way: what tells which rows are needed."""
        return nll("pair") - nll("target")

    @property
    def cost(self) -> Cost:
        """Both rows have losses of their own."""
        return replace(super().cost, rescored=frozenset({"pair", "target"}), matrices=2)

    @property
    def needs_reference_nll(self) -> bool:
        """The original model's log-probabilities of both rows enter."""
        return True

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Mean over the active rows of the global batch."""
        from torch.nn.functional import logsigmoid

        from icu_ray.methods.losses import log_ratios

        beta = float(self.settings["beta_dpo"])
        weights, ratio = log_ratios(model, batch, ("pair", "target"), self.options)
        margin = ratio["pair"] - ratio["target"]
        total = -(weights * logsigmoid(beta * margin)).sum()
        return LossTerms(total, {"dpo": total.detach(), "margin": (weights * margin).sum().detach()})
