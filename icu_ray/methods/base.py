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
from typing import TYPE_CHECKING, ClassVar, Literal

from icu_ray.config import LossConfig, StepConfig
from icu_ray.errors import UserError, did_you_mean
from icu_ray.methods.batch import Batch, LossTerms
from icu_ray.methods.cost import Cost, cost_of
from icu_ray.methods.objective import Objective, nll
from icu_ray.methods.weights import TokenRule

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# One import for whoever writes a method.
__all__ = ["Batch", "Cost", "LossTerms", "Method", "Setting", "TokenRule"]
Setting = float | int | str | bool
_KINDS: Mapping[type, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


class Method(ABC):
    """An unlearning method with its hyper-parameters: alpha weighs learning, beta the divergence (equation
    6).

    A subclass names itself, lists the settings it understands with their defaults, and gives its
    `objective()`.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Setting]] = {}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Of settings that are one of a few words."""
    positive: ClassVar[tuple[str, ...]] = ()
    """Settings that must be above 0."""
    not_negative: ClassVar[tuple[str, ...]] = ()
    """Settings that must be 0 or above."""
    uses_alpha: ClassVar[bool] = True
    """False where alpha does not change the loss, so that a plan can tell equal cells."""
    uses_beta: ClassVar[bool] = True
    trains: ClassVar[bool] = True
    """False for the model as it is, which is measured and nothing else."""
    follows_steps: bool = False
    """True where it is told what each step measured over its whole global batch (`after_step`): one more collective."""
    fine_tunes: ClassVar[bool] = False
    """True where it learns its targets by its own settings `epochs`, `lr` and `schedule`, all of them to the end, and
    the model that it leaves is made of the weights before and after (`left`)."""
    second_answers: ClassVar[Literal["sentences", "alternates"] | None] = None
    """Where a method that reads second answers takes them from, unless its setting `answers` says otherwise: sentences
    of ignorance, or the rows' own alternates."""

    step: StepConfig | None = None
    """The rule that makes steps of its gradients (training/step_rules.py); None: plain descent. `methods.get` sets it.
    """

    def __init__(
        self,
        alpha: float | None = None,
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
            self._check(key, value)
        self.alpha = self.usual_alpha(given) if alpha is None else alpha
        self.beta = beta
        self.settings: dict[str, Setting] = {**self.defaults, **given}
        self.options = loss or LossConfig()
        self.set_up(given)

    def set_up(self, given: Mapping[str, Setting]) -> None:  # noqa: B027 - most need nothing
        """Whatever else follows from a method's settings, once they are there. given: those of the config."""

    @abstractmethod
    def objective(self) -> Objective:
        """The loss as a weighted sum of terms, to be minimised."""

    def loss(self, model: PreTrainedModel, batch: Batch) -> LossTerms:
        """Value and gradient-carrying total of `batch`."""
        from icu_ray.methods.losses import evaluate

        return evaluate(self.objective(), model, batch, self.options)

    def split(self) -> tuple[Objective, Objective]:
        """What forgets, and what keeps (the terms of pairs alone), for step rules; they add up to the objective.

        A rule that asks for what keeps is given the pairs' loss where a method has nothing of the kind.
        """
        sides = [(factor, term, term.sides == {"pair"}) for factor, term in self.objective().terms]
        forget, retain = (Objective(tuple((f, t) for f, t, of in sides if of == kind)) for kind in (False, True))
        if self.step is not None and self.step.rule == "gru" and not retain.terms:
            retain = nll("pair", name="retain")
        return forget, retain

    @property
    def splits(self) -> bool:
        """Whether its loss is the sum that its objective says, so that it can be split."""
        return type(self).loss is Method.loss and bool(self.split()[0].terms)

    @classmethod
    def usual_alpha(cls, settings: Mapping[str, Setting]) -> float:
        """Alpha where a config gives none, of a method with these settings."""
        return 0.5

    @classmethod
    def alpha_counts(cls, settings: Mapping[str, Setting]) -> bool:
        """Whether alpha changes the loss of a method with these settings."""
        return cls.uses_alpha

    @property
    def cost(self) -> Cost:
        """What its steps take, which plans reckon with. Whoever overrides `loss()` adds what else that needs:

        `dataclasses.replace(super().cost, rescored=frozenset({"target"}))` where rows have losses of their own.
        """
        if self.step is None:
            return cost_of(self.objective(), after_epoch=self.measured_after_epoch())
        return cost_of(self.objective(), self.step, self.split(), self.measured_after_epoch())

    @property
    def target_rule(self) -> TokenRule:
        """Which tokens of targets count, and how they are averaged."""
        return TokenRule()

    @property
    def pair_rule(self) -> TokenRule:
        """The same of pairs."""
        return TokenRule()

    @property
    def needs_pairs(self) -> bool:
        """Whether batches must carry paired rows."""
        return self.objective().needs_pairs or (self.step is not None and self.split()[1].needs_pairs)

    @property
    def needs_alternates(self) -> bool:
        """Whether batches must carry second answers to the targets' prompts."""
        return self.objective().needs_alternates

    @property
    def answers(self) -> Literal["sentences", "alternates"] | None:
        """Where second answers come from; None for methods without."""
        return self.second_answers

    @property
    def needs_reference(self) -> bool:
        """Whether batches must carry the original model's distributions on the pairs."""
        return self.objective().needs_reference

    @property
    def needs_target_reference(self) -> bool:
        """Whether batches must carry the original model's distributions on the targets."""
        return self.objective().needs_target_reference

    @property
    def needs_reference_nll(self) -> bool:
        """Whether the reference must hold the original model's token losses on targets and pairs."""
        return self.objective().needs_reference_nll

    @property
    def reference_layers(self) -> tuple[int, ...]:
        """Layers of the original model whose hidden states on the pairs batches must carry."""
        return self.objective().reference_layers

    @property
    def named_layers(self) -> tuple[int, ...]:
        """Layers that it reads or trains by their numbers, which a plan checks."""
        return self.objective().layers

    @property
    def named_parts(self) -> tuple[str, ...]:
        """Words of names of the parameters that it trains, such as down_proj, which a plan checks; none: all."""
        return ()

    def trains_parameter(self, name: str) -> bool:
        """Whether the model's parameter of this name is trained; the others are frozen before an engine is made."""
        return True

    def left(self, before: Tensor, now: Tensor) -> Tensor:
        """A weight of the model that is left, in float32, where `fine_tunes`. before, now: as it began, as trained."""
        return now

    def after_step(self, parts: Mapping[str, float], epoch: int) -> None:  # noqa: B027 - most carry nothing
        """Told the parts of each step's loss over the global batch, alike on all workers, where `follows_steps`."""

    def measured_after_epoch(self, epoch: int | None = None) -> Objective | None:
        """What is measured, without a step, on the coming epoch's batches once this one is over (`after_epoch`).

        epoch: the one that is over; None: what it may be after any. None is returned for nothing.
        """
        return None

    def after_epoch(self, parts: Mapping[str, float], epoch: int) -> None:  # noqa: B027
        """Told the means of these parts over the batches of which some target is active, alike on all workers."""

    def state(self) -> dict[str, float]:
        """What it carries from step to step, for checkpoints."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:  # noqa: B027
        """Take up what `state` gave."""

    def _check(self, key: str, value: Setting) -> None:
        default = self.defaults[key]
        wanted: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
        if not isinstance(value, wanted) or (isinstance(value, bool) and not isinstance(default, bool)):
            quoted = f"; write '{value}', with quotes" if isinstance(default, str) else ""
            raise UserError(
                f"method {self.name}: setting '{key}' must be {_KINDS[type(default)]}, found {value!r} "
                f"(default {default!r}){quoted}"
            )
        known = self.choices.get(key)
        if known is not None and value not in known:
            raise UserError(
                f"method {self.name}: setting '{key}' must be one of {', '.join(known)}, found {value!r}"
                f"{did_you_mean(str(value), known)}"
            )
        if key in self.positive and not float(value) > 0:
            raise UserError(f"method {self.name}: setting '{key}' must be above 0, found {value!r}")
        if key in self.not_negative and not float(value) >= 0:
            raise UserError(f"method {self.name}: setting '{key}' must not be negative, found {value!r}")
