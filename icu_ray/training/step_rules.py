"""Steps that take more than one gradient: sharpness-aware unlearning (SAM) and gradient rectification (GRU).

    rule = rule_of(StepConfig(rule="sam", rho=0.01))
    gradient = rule.gradient(PartGradients(module, micro_batches, world_size))      # (P,) of all trained weights

sam (Fan et al., "Towards LLM unlearning resilient to relearning attacks"), with L the forget and R the retain part:

    g = grad L at w + rho * grad L(w) / |grad L(w)|,  plus grad R at w

gru (Wang et al., "GRU: mitigating the trade-off between unlearning and retention"), with m a moving average of grad R:

    g = grad L - min(0, <grad L, m>) / <m, m> * m

L and R are what the method's loss adds up to, weights and all (`Method.split`). Each gradient is of the whole global
batch: summed over micro batches, then over ranks, before any norm or product is taken. Norms and products are of all
trained weights together, in float64. What comes out goes through the engine's own optimizer, so GRU's promise that the
retain loss does not rise holds for the gradient; clipping, Adam's scaling and weight decay come after it.
Each pass draws its own dropout, from the seed of the epoch, as the papers' code does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from icu_ray.config import StepConfig

if TYPE_CHECKING:
    from icu_ray.methods.base import Batch
    from icu_ray.methods.module import UnlearningModule
    from icu_ray.methods.objective import Objective

Part = Literal["forget", "retain"]
STATE_FILE = "step_rule.safetensors"
_AT_ONCE = 2**22
"""Numbers that are float64 at one time."""


class PartGradients:
    """The gradients of a step's two parts, and the values of their terms on this rank (`values`)."""

    def __init__(self, module: UnlearningModule, batches: Sequence[Batch], world_size: int) -> None:
        self.module, self.batches, self.world_size = module, batches, world_size
        self.weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
        forget, retain = module.method.split()
        self.objectives = {"forget": forget, "retain": retain}
        self.values: dict[str, float] = {}

    def has(self, part: Part) -> bool:
        """Whether the method has it."""
        return bool(self.objectives[part].terms)

    def of(self, part: Part, suffix: str = "") -> Tensor:
        """(P,) float32 over the whole global batch, alike on all ranks. suffix: of the names of its terms' values."""
        total = torch.zeros(sum(w.numel() for w in self.weights), device=self.weights[0].device)
        for batch in self.batches:
            self._add(batch, self.objectives[part], suffix, total)
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    def _add(self, batch: Batch, part: Objective, suffix: str, total: Tensor) -> None:
        """A micro batch's gradients to (P,) total; they are gone before the next one's are made."""
        terms = self.module(batch, part)
        found = torch.autograd.grad(terms.total, self.weights, allow_unused=True)
        for (_, place), gradient in zip(self.pairs(total), found, strict=True):
            if gradient is not None:
                place += gradient
        for name, value in terms.parts.items():
            self.values[name + suffix] = self.values.get(name + suffix, 0.0) + float(value)

    def pairs(self, flat: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each weight with its place in a flat tensor (P,)."""
        parts = flat.split([w.numel() for w in self.weights])  # type: ignore[no-untyped-call]
        return ((weight, part.view_as(weight)) for weight, part in zip(self.weights, parts, strict=True))

    @torch.no_grad()
    def move(self, direction: Tensor, factor: float) -> Callable[[], None]:
        """Add factor * direction (P,) to the weights; what is returned puts them back, bit for bit."""
        before = [weight.detach().clone() for weight in self.weights]
        for weight, part in self.pairs(direction):
            weight.add_(part.to(weight.dtype), alpha=factor)

        def put_back() -> None:
            with torch.no_grad():
                for weight, value in zip(self.weights, before, strict=True):
                    weight.copy_(value)

        return put_back


class StepRule(ABC):
    """Makes one gradient of a step's parts. told: what it measured at the last step, for the epoch's record."""

    def __init__(self) -> None:
        self.told: dict[str, float] = {}

    @abstractmethod
    def gradient(self, parts: PartGradients) -> Tensor:
        """(P,) float32, to descend along."""

    def save(self, folder: Path) -> None:  # noqa: B027 - most carry nothing
        """Leave in a checkpoint's folder what is carried from step to step, alike on all ranks."""

    def load(self, folder: Path, device: torch.device) -> None:  # noqa: B027
        """Take it up again."""


class Sam(StepRule):
    """Sharpness-aware: the forget part's gradient where that part is higher, at a distance of rho."""

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = rho

    def gradient(self, parts: PartGradients) -> Tensor:
        """Twice through the forget part, once through the retain part if there is one."""
        retain = parts.of("retain") if parts.has("retain") else None
        uphill = parts.of("forget")
        norm = math.sqrt(product(uphill, uphill))
        put_back = parts.move(uphill, self.rho / norm if norm > 0 else 0.0)
        del uphill  # a copy of all weights less while the next one is made
        try:
            found = parts.of("forget", "_uphill")
        finally:
            put_back()
        return found if retain is None else found.add_(retain)


class Gru(StepRule):
    """Rectification: without what opposes the retain part's gradient, or its moving average."""

    def __init__(self, average: float, max_opposition: float | None = None) -> None:
        super().__init__()
        self.average, self.max_opposition = average, max_opposition
        self.mean: Tensor | None = None
        """(P,) of retain gradients; before the first step it counts as 0."""

    def gradient(self, parts: PartGradients) -> Tensor:
        """Once through each part."""
        found, retain = parts.of("forget"), parts.of("retain")
        if self.average < 1:
            retain.mul_(self.average)
            if self.mean is not None:
                retain.add_(self.mean, alpha=1 - self.average)
            self.mean = retain
        length, length_retain = (math.sqrt(product(each, each)) for each in (found, retain))
        cosine = product(found, retain) / (length * length_retain) if length * length_retain > 0 else 0.0
        self.told = {"cosine": cosine}
        if cosine < 0:
            opposed = cosine if self.max_opposition is None else max(cosine, -self.max_opposition)
            found.add_(retain, alpha=-opposed * length / length_retain)
        return found

    def save(self, folder: Path) -> None:
        """The moving average."""
        from safetensors.torch import save_file

        if self.mean is not None:
            save_file({"mean": self.mean}, folder / STATE_FILE)

    def load(self, folder: Path, device: torch.device) -> None:
        """There is none before the first step."""
        from safetensors.torch import load_file

        if self.average < 1 and (folder / STATE_FILE).is_file():
            self.mean = load_file(folder / STATE_FILE, device=str(device))["mean"]


def rule_of(told: StepConfig) -> StepRule:
    """What a config asks for."""
    return Sam(**told.settings) if told.rule == "sam" else Gru(**told.settings)


def product(one: Tensor, two: Tensor) -> float:
    """Their scalar product in float64; one, two: (P,)."""
    parts = zip(one.split(_AT_ONCE), two.split(_AT_ONCE), strict=True)  # type: ignore[no-untyped-call]
    return float(sum(torch.dot(a.double(), b.double()) for a, b in parts))
