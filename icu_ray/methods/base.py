"""What every unlearning method is: hyper-parameters, and a loss of a batch.

A method turns a `Batch` (rows of targets and pairs with their weights, and the original model's view of the
pairs) into `LossTerms`. Most methods only say their `objective()`; one whose loss is no weighted sum
overrides `loss()`.

    method = methods.get("icu", alpha=0.5, beta=1.0)
    terms = method.loss(model, batch)
    terms.total.backward()

Promise: losses add up. Weights are made once from the whole global batch (`methods/weights.py`), so the
totals and parts of micro batches and ranks are summed, never averaged. Importing this module does not import
torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from icu_ray.config import LossConfig
from icu_ray.errors import UserError, did_you_mean
from icu_ray.methods.batch import Batch, LossTerms
from icu_ray.methods.objective import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# One import for whoever writes a method.
__all__ = ["Batch", "LossTerms", "Method", "Setting"]
Setting = float | int | str | bool


class Method(ABC):
    """An unlearning method with its hyper-parameters: alpha weighs learning, beta the divergence (equation
    6).

    A subclass names itself, lists the settings it understands with their defaults, and gives its
    `objective()`.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Setting]] = {}
    uses_alpha: ClassVar[bool] = True
    """False where alpha does not change the loss, so that a plan can tell equal cells."""
    uses_beta: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    """False for the model as it is, which is measured and nothing else."""

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 1.0,
        settings: Mapping[str, Setting] | None = None,
        loss: LossConfig | None = None,
    ) -> None:
        given = dict(settings or {})
        for key, value in given.items():
            if key not in self.defaults:
                known = ", ".join(self.defaults) or "none"
                raise UserError(
                    f"method {self.name}: unknown setting '{key}'{did_you_mean(key, self.defaults)}; known: {known}"
                )
            _check_type(self.name, key, value, self.defaults[key])
        self.alpha = alpha
        self.beta = beta
        self.settings: dict[str, Setting] = {**self.defaults, **given}
        self.options = loss or LossConfig()

    @abstractmethod
    def objective(self) -> Objective:
        """The loss as a weighted sum of terms, to be minimised."""

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Value and gradient-carrying total of `batch`."""
        from icu_ray.methods.losses import evaluate

        return evaluate(self.objective(), model, batch, self.options)

    @property
    def needs_pairs(self) -> bool:
        """Whether batches must carry paired rows."""
        return self.objective().needs_pairs

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry the original model's distributions on the pairs."""
        return self.objective().needs_reference

    @property
    def needs_reference_nll(self) -> bool:
        """Whether the reference must hold the original model's token losses on targets and pairs."""
        return False


def _check_type(method: str, key: str, value: Setting, default: Setting) -> None:
    wanted: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
        raise UserError(
            f"method {method}: setting '{key}' must be {type(default).__name__}, found {value!r} (default {default!r})"
        )
