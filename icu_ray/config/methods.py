"""Which methods run with which weights: a grid, or a search in its place."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from icu_ray.config.measuring import Threshold
from icu_ray.config.section import Count, Name, Positive, Section, Seed, Setting, Weight


class MethodStop(Section):
    """A stopping rule of one method; what is left out is as in the sweep's `stop`."""

    rule: Literal["and", "or", "epochs"] | None = None
    """As stop.rule."""
    ma: Threshold | None = None
    """As stop.ma."""
    el: Threshold | None = None
    """As stop.el."""
    max_epochs: Count | None = None
    """As stop.max_epochs, and before that of the model. Default: the model's own, else stop.max_epochs."""


class StepConfig(Section):
    """How a method's gradients become a step, where that is not plain descent on its loss.

    It needs a loss that is a sum of terms: those of the pairs alone are the retain part, the others the forget part.
    """

    rule: Literal["sam", "gru"]
    """sam: the forget part's gradient is taken a little uphill, where forgetting has been undone most (sharpness-aware
    minimisation). gru: what opposes the retain part is taken out of the forget part's gradient, and the retain part
    only gives the direction; it is the pairs' loss for a method without one (gradient rectification)."""
    rho: Positive | None = None
    """With sam: how far uphill, the norm of the change of all trained weights together. Default: 0.01."""
    max_opposition: Annotated[float, Field(gt=0, le=1)] | None = None
    """With gru: how much is taken out at most: the cosine of the two gradients counts as no lower than minus this.
    0.5 is the limit in GRU's code. Default: no limit."""
    average: Annotated[float, Field(gt=0, le=1)] | None = None
    """With gru: weight of this step's retain gradient in its moving average; 0.8 in GRU's code. Default: 1, no
    average."""

    @model_validator(mode="after")
    def _own_keys(self) -> StepConfig:
        other = {"sam": ("max_opposition", "average"), "gru": ("rho",)}[self.rule]
        for key in other:
            if getattr(self, key) is not None:
                raise ValueError(f"'{key}' is not for rule={self.rule}; leave it out")
        return self

    @property
    def settings(self) -> dict[str, float]:
        """What the rule is told, defaults filled in."""
        if self.rule == "sam":
            return {"rho": 0.01 if self.rho is None else self.rho}
        limit = {} if self.max_opposition is None else {"max_opposition": self.max_opposition}
        return {"average": 1.0 if self.average is None else self.average, **limit}


class MethodConfig(Section):
    """One method and its cells: every alpha with every beta, or the listed [alpha, beta] cells."""

    name: Name = "icu"
    """What 'icu-ray list methods' shows: a built-in method such as icu, graddiff or rmu, or an installed plug-in."""
    label: Name | None = None
    """Shown in tables in place of the name, for example 'gradient-ascent'."""
    alpha: Weight | Annotated[tuple[Weight, ...], Field(min_length=1)] | None = None
    """Weight of learning the pairs (equation 3), or of a method's retain loss, one or several. Default: the method's
    own, 0.5 for those of the paper."""
    beta: Weight | Annotated[tuple[Weight, ...], Field(min_length=1)] = 1.0
    """Weight of the divergence to the original model (equation 4), one or several."""
    cells: Annotated[tuple[tuple[Weight, Weight], ...], Field(min_length=1)] | None = None
    """Pairs [alpha, beta] in place of the full grid of `alpha` and `beta`."""
    lr: Positive | Annotated[tuple[Positive, ...], Field(min_length=1)] | None = None
    """Learning rate of this method, or several, each with every cell. Default: the model's own, else optim.lr."""
    settings: dict[str, Setting] = {}  # noqa: RUF012 (pydantic copies it)
    """Settings that only this method understands, for example {"beta_dpo": 0.1}."""
    models: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """Names of the models to run it on; default: all that are trained."""
    stop: MethodStop = MethodStop()
    """Where this method ends by a different rule from the sweep's `stop`, as the paper's baselines did."""
    filter: Literal["or", "and", "never"] | None = None
    """A different filter.rule for this method, for example where ICU refines and the field's methods train on all
    targets."""
    step: StepConfig | None = None
    """A rule that makes a step of more than one gradient, such as {rule: sam}. Default: plain descent on the loss."""

    @field_validator("settings", mode="before")
    @classmethod
    def _one_value_each(cls, settings: object) -> object:
        for key, value in settings.items() if isinstance(settings, dict) else ():
            if isinstance(value, list | tuple):
                written = ",".join(map(str, value))
                raise ValueError(f"'{key}': expected one value, found a list; several are one text: '{written}'")
        return settings

    @model_validator(mode="after")
    def _one_grid(self) -> MethodConfig:
        if self.cells is not None and self.model_fields_set & {"alpha", "beta"}:
            raise ValueError("give either 'cells' or 'alpha' and 'beta': with cells they would have no effect")
        return self

    @model_serializer(mode="wrap")
    def _as_it_may_be_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if self.cells is not None:
            del written["alpha"], written["beta"]
        return written

    @property
    def shown(self) -> str:
        """What tables call it: its label, or its name and its step rule's."""
        return self.label or (self.name if self.step is None else f"{self.name}-{self.step.rule}")

    def grid(self, usual_alpha: float = 0.5) -> tuple[tuple[float, float], ...]:
        """The (alpha, beta) cells in their written order. usual_alpha: the method's, where none is written."""
        if self.cells is not None:
            return self.cells
        alpha = usual_alpha if self.alpha is None else self.alpha
        alphas = alpha if isinstance(alpha, tuple) else (alpha,)
        betas = self.beta if isinstance(self.beta, tuple) else (self.beta,)
        return tuple((a, b) for a in alphas for b in betas)

    @property
    def lrs(self) -> tuple[float | None, ...]:
        """Its learning rates in their written order; (None,) where the model or the sweep says it."""
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)


class RangeConfig(Section):
    """Values from low to high; log: drawn evenly by their logarithm."""

    low: Weight
    """Smallest value."""
    high: Weight
    """Largest value."""
    log: bool = False
    """Draw evenly by the logarithm."""

    @model_validator(mode="after")
    def _ordered(self) -> RangeConfig:
        if not self.low < self.high:
            raise ValueError("must satisfy low < high")
        if self.log and self.low <= 0:
            raise ValueError("log needs low > 0")
        return self


class SearchConfig(Section):
    """In place of a grid: one model, one sample, one method, whose values a Tune search chooses trial by trial."""

    space: dict[Literal["alpha", "beta", "lr"], RangeConfig]
    """Ranges of alpha, beta and lr; what is left out keeps its value."""
    trials: Count = 20
    """Number of trials in all, including those of earlier runs of the same command."""
    algorithm: str = "optuna"
    """optuna, random, or another of Ray Tune's searchers by its name there (its package must be installed)."""
    objective: Literal["forget_cheaply", "audited"] = "forget_cheaply"
    """forget_cheaply, to be maximised: minus ten times what MA and EL are above their thresholds, minus the logarithm
    of the ratio of held-out perplexity. No normalised score: those depend on the other trials. audited: that, minus ten
    times the part of the targets that come back (audit.leak) under a cheap attack after the epoch: prefixes of the
    secret, and with the weights rounded to 4 bits (NF4) these and the prompt."""
    stop_early: bool = True
    """End trials that fall behind at an epoch (ASHA)."""
    grace_epochs: Count = 3
    """Epochs that every trial is given before it can be ended early."""
    seed: Seed = 0
    """Seed of the searcher."""
