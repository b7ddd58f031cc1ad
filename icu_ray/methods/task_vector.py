"""Task vector (Ilharco et al., "Editing models with task arithmetic"; here as in MUSE): learn the targets, subtract it.

    w_left = w - scale * (w_learnt - w)          w_learnt: after `epochs` of fine-tuning on the targets, by `lr`

w is the model from which something is unlearned. What an epoch measures is the model that would be left after it.
Arithmetic is in float32. Every target is learnt in every epoch, without a filter or an early end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from icu_ray.methods.base import Method, Setting
from icu_ray.methods.objective import Objective, nll

if TYPE_CHECKING:
    from torch import Tensor


class TaskVector(Method):
    """Subtract what fine-tuning on the targets adds; defaults are those of MUSE's scripts."""

    name = "task_vector"
    defaults: ClassVar[Mapping[str, Setting]] = {"scale": 5.0, "epochs": 10, "lr": 1e-5, "schedule": "cosine"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"schedule": ("constant", "linear", "cosine")}
    positive: ClassVar[tuple[str, ...]] = ("epochs", "lr")
    not_negative: ClassVar[tuple[str, ...]] = ("scale",)
    uses_alpha = False
    uses_beta = False
    fine_tunes = True

    def objective(self) -> Objective:
        """CE(targets), lowered: the trial learns."""
        return nll("target", name="learn")

    def left(self, before: Tensor, now: Tensor) -> Tensor:
        """The other way by `scale` of the change."""
        return before - float(self.settings["scale"]) * (now - before)
